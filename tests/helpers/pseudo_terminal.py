"""What a command wrote into a terminal."""

import os


def read_all(reader: int) -> str:
    """Return all that was written into a pseudo-terminal whose other end is closed by now.

    One read may give a part: on a busy machine the kernel has not passed on all of it.
    """
    parts = []
    while True:
        try:
            part = os.read(reader, 65_536)
        except OSError:  # what Linux says at the end
            break
        if not part:
            break
        parts.append(part)
    os.close(reader)
    return b"".join(parts).decode().replace("\r\n", "\n")
