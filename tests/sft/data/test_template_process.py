"""A template that loops for ever, or builds gigabytes, is stopped and named."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mobilellama.sft.data.template_process import (
    RenderLimitError,
    RenderLimits,
    TemplateBrokenError,
    TemplateProcess,
    TemplateRefusalError,
)

LIMITS = RenderLimits(cpu_s=1, memory_bytes=200 << 20, characters=100_000)
MESSAGES = [{"role": "user", "content": "Hello"}]


def process(template: str, limits: RenderLimits = LIMITS) -> TemplateProcess:
    """Return a process that renders a template as transformers does."""

    def render(messages: list[dict[str, str]], **options: Any) -> str:
        [text], _ = render_jinja_template([messages], chat_template=template, **options)
        return text

    return TemplateProcess(render, limits)


HOSTILE = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "a product of ranges": "{{ (range(99999) | list * 99999) | sum }}",
    "a folded constant": "{{ 'a' * 10**10 }}",
    "a large power": "{{ 9 ** (9 ** 9) }}",
    "doubling": (
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(40) %}"
        "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
    ),
    "a list that grows": (
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}"
        "{% set n.s = n.s + n.s %}{% endfor %}{{ n.s | length }}"
    ),
    "center": "{{ 'a' | center(10**10) }}",
    "format": "{{ '%10000000000d' | format(1) }}",
    "str.format": "{{ '{:>10000000000}'.format(1) }}",
    "join": "{{ ['a' * 10**6] * 10**5 | join }}{{ (['a' * 10**6] * 10**5) | join }}",
    "replace": "{{ ('a' * 10**6) | replace('a', 'a' * 10**6) }}",
    "indent": "{{ ('\\n' * 10**6) | indent(10**6) }}",
    "many prints": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "recursion that doubles": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "a pattern of filters": "{{ range(99999) | map('string') | list | batch(1) | list * 9999 }}",
    "tojson": "{{ ([[[1] * 1000] * 1000] * 1000) | tojson }}",
    "a long text": "{{ 'a' * 100001 }}",
    "slices": "{{ range(99999) | slice(10**9) | list }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped(name: str) -> None:
    renderer = process(HOSTILE[name])
    with pytest.raises((RenderLimitError, TemplateRefusalError)) as error:
        renderer.call(MESSAGES, {})
    renderer.close()
    if isinstance(error.value, RenderLimitError):
        limits = ("took more than 1 s", "took more than 0.195312 GiB", "wrote more than 100,000")
        assert str(error.value).startswith(limits)


def test_unlimited_recursion_is_a_refusal() -> None:
    renderer = process("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}")
    with pytest.raises(TemplateRefusalError, match="RecursionError"):
        renderer.call(MESSAGES, {})
    renderer.close()


def test_after_a_limit_the_next_conversation_is_rendered() -> None:
    template = "{% if messages[0].content == 'x' %}{{ 'a' * 10**10 }}{% endif %}ok"
    renderer = process(template.replace("10**10", "(messages[0].content | length * 10**10)"))
    assert renderer.call(MESSAGES, {}) == "ok"
    for _ in range(2):
        with pytest.raises(RenderLimitError):
            renderer.call([{"role": "user", "content": "x"}], {})
        assert renderer.call(MESSAGES, {}) == "ok"
    renderer.close()


def test_one_process_serves_all_conversations_and_time_counts_for_each() -> None:
    pids = TemplateProcess(lambda messages, **options: [os.getpid()], LIMITS)
    assert pids.call(MESSAGES, {}) == pids.call(MESSAGES, {}) != [os.getpid()]
    pids.close()

    def work(messages: list[dict[str, str]], **options: Any) -> str:
        end = time.process_time() + 0.6
        while time.process_time() < end:
            pass
        return "done"

    busy = TemplateProcess(work, LIMITS)
    assert [busy.call(MESSAGES, {}) for _ in range(5)] == ["done"] * 5
    busy.close()


def test_what_a_template_says_comes_back() -> None:
    renderer = process("{{ raise_exception('no ' ~ messages[0].content) }}")
    with pytest.raises(TemplateRefusalError, match=r"^no Hello$"):
        renderer.call(MESSAGES, {})
    renderer.close()
    renderer = process("a\n{% for %}")
    with pytest.raises(TemplateBrokenError, match=r"^line 2: "):
        renderer.call(MESSAGES, {})
    renderer.close()


def test_the_process_ends_with_the_one_that_asks() -> None:
    renderer = process("ok")
    renderer.call(MESSAGES, {})
    assert renderer._running is not None
    inner, pipe = renderer._running  # its end is what is asserted
    pipe.close()
    inner.join(timeout=60)
    assert inner.exitcode == 0
    assert not Path(f"/proc/{inner.pid}/task").exists()
