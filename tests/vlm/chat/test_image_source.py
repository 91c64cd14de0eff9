"""Images that a person names: addresses on the web."""

import time

import pytest

from mobilellama.config import DataError
from mobilellama.vlm.chat.image_source import download, open_image
from tests.vlm.helpers.image_site import Site


def test_an_address_that_gives_no_image_is_named(site: Site) -> None:
    page = site.page("/page.html", b"<html>no image</html>")
    for url, message in (
        (f"{site.url}/absent", "/absent: the server answers 404 Not Found. Check the address"),
        (page, "/page.html: is no image that Pillow knows"),
        (site.page("/empty", b""), "/empty: is empty"),
        (site.page("/round", b"", code=302, Location="/round"), "/round: cannot be fetched"),
        (
            site.page("/out", b"", code=302, Location="file:///etc/passwd"),
            "/out: cannot be fetched",
        ),
        ("http://127.0.0.1:1/a.png", "a.png: cannot be fetched"),
        ("https://", "cannot be fetched"),
    ):
        with pytest.raises(DataError) as caught:
            open_image(url)
        assert message in str(caught.value), url


def test_an_answer_too_large_or_too_slow_is_left(site: Site) -> None:
    large = site.page("/large", bytes(300_000))
    assert len(download(large)) == 300_000
    with pytest.raises(DataError, match=r"/large: is larger than 0 MB\. Give a smaller image"):
        download(large, most_bytes=299_999)
    started_s = time.monotonic()
    with pytest.raises(DataError, match=r"/slow: takes longer than 0\.3 s"):
        download(site.slow_page("/slow"), within_s=0.3)
    with pytest.raises(DataError, match=r"/drip: takes longer than 0\.3 s"):
        download(site.slow_page("/drip", size_bytes=1), within_s=0.3)
    assert time.monotonic() - started_s < 2


def test_an_answer_packed_against_the_request_is_left(site: Site) -> None:
    """Unpacking could hold bytes back, or make much of few."""
    url = site.page("/packed", b"\x1f\x8b", code=200, **{"Content-Encoding": "gzip"})
    with pytest.raises(DataError, match=r"/packed: the server compresses it \(gzip\)"):
        download(url)


def test_a_long_address_is_cut_in_messages(site: Site) -> None:
    with pytest.raises(DataError, match="the server answers 404 Not Found") as caught:
        download(f"{site.url}/{'x' * 3000}")
    assert len(str(caught.value)) < 300
