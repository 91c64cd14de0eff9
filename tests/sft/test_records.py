from typing import Any

import pytest

from mobilellama.sft.conversation import Turn
from mobilellama.sft.reasons import Drop, DropError
from mobilellama.sft.records import ROLES, Format, is_record, read_turns

HELLO = [Turn("user", "Hi"), Turn("assistant", "Hello!")]
TOLD = [Turn("system", "Be kind."), *HELLO]


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        # ShareGPT and Vicuna
        ({"id": "a", "conversations": [{"from": "human", "value": "Hi"},
                                       {"from": "gpt", "value": "Hello!"}]}, HELLO),
        ({"conversation": [{"from": "human", "value": "Hi"},
                           {"from": "gpt", "value": "Hello!"}]}, HELLO),
        ({"conversations": [{"from": "system", "value": "Be kind."},
                            {"from": "human", "value": "Hi"},
                            {"from": "gpt", "value": "Hello!"}]}, TOLD),
        # a system text beside the turns; one among them counts before it
        ({"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"},
                                                  {"from": "gpt", "value": "Hello!"}]}, TOLD),
        ({"system": "Another.", "messages": [{"role": "system", "content": "Be kind."},
                                             {"role": "user", "content": "Hi"},
                                             {"role": "assistant", "content": "Hello!"}]}, TOLD),
        ({"system_prompt": "", "conversations": [{"from": "human", "value": "Hi"},
                                                 {"from": "gpt", "value": "Hello!"}]}, HELLO),
        # OpenAI
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "Hello!"}]}, HELLO),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"},
                                                    {"type": "text", "text": "i"}]},
                       {"role": "assistant", "content": "Hello!", "tool_calls": None}]}, HELLO),
        # shapes mixed, as converted data sets have them
        ({"conversations": [{"role": "user", "content": "Hi"},
                            {"role": "assistant", "content": "Hello!"}]}, HELLO),
        # a table's row: the other shapes' columns are null
        ({"conversations": None, "instruction": None,
          "messages": [{"role": "user", "content": "Hi", "from": None, "value": None},
                       {"role": "assistant", "content": "Hello!"}]}, HELLO),
        # a column of dicts, as older versions of datasets give it
        ({"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello!"]}}, HELLO),
        # plain lists
        ([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], HELLO),
        ([{"role": "user", "content": "Hi"}, {"role": "model", "content": "Hello!"}], HELLO),
        # pairs
        ({"instruction": "Hi", "input": "", "output": "Hello!"}, HELLO),
        ({"instruction": "Hi", "output": "Hello!", "system": "Be kind."}, TOLD),
        ({"prompt": "Hi", "response": "Hello!"}, HELLO),
        ({"prompt": "Hi", "completion": "Hello!"}, HELLO),
        ({"question": "Hi", "answer": "Hello!"}, HELLO),
        ({"instruction": "Add", "input": "1, 2", "output": "3"},
         [Turn("user", "Add\n1, 2"), Turn("assistant", "3")]),
        ({"instruction": "Who?", "context": "Ann sat.", "response": "Ann"},
         [Turn("user", "Who?\nAnn sat."), Turn("assistant", "Ann")]),
        # a pair whose question is empty: clean.py's to judge, not a missing shape
        ({"instruction": "", "output": "Hello!"}, [Turn("user", ""), Turn("assistant", "Hello!")]),
    ],
)  # fmt: skip
def test_each_shape_is_read(record: Any, turns: list[Turn]) -> None:
    assert read_turns(record) == turns


@pytest.mark.parametrize(
    ("record", "cut"),
    [
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "Hello!", "cut": True}]}, True),
        ({"conversations": [{"from": "human", "value": "Hi", "cut": None},
                            {"from": "gpt", "value": "Hello!", "cut": True}]}, True),
        ([{"from": "human", "value": "Hi"},
          {"from": "gpt", "value": "Hello!", "finish": "length"}], True),
        ({"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello!"],
                            "cut": [None, True]}}, True),
        ({"instruction": "Hi", "output": "Hello!", "cut": True}, True),
        ({"prompt": "Hi", "answer": "Hello!", "finish": "length", "tokens": 3}, True),
        # whole answers; a question is none
        ({"messages": [{"role": "user", "content": "Hi", "cut": True},
                       {"role": "assistant", "content": "Hello!", "cut": False}]}, False),
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "Hello!", "cut": None}]}, False),
        ({"prompt": "Hi", "answer": "Hello!", "finish": "stop", "tokens": 3}, False),
    ],
)  # fmt: skip
def test_an_answer_that_is_marked_as_cut_short_is_known(record: Any, cut: bool) -> None:
    assert read_turns(record) == [Turn("user", "Hi"), Turn("assistant", "Hello!", cut=cut)]


@pytest.mark.parametrize(
    ("spelling", "role"),
    [("human", "user"), ("user", "user"), ("prompter", "user"), ("Human", "user"),
     ("gpt", "assistant"), ("assistant", "assistant"), ("chatgpt", "assistant"),
     ("bing", "assistant"), ("bard", "assistant"), ("model", "assistant"), ("bot", "assistant"),
     ("GPT", "assistant"), ("system", "system")],
)  # fmt: skip
def test_each_spelling_of_a_role_is_understood(spelling: str, role: str) -> None:
    (turn,) = read_turns([{"from": spelling, "value": "x"}])
    assert turn == Turn(role, "x")  # pyright: ignore[reportArgumentType]
    assert spelling.lower() in ROLES


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ("text", Drop.UNKNOWN_SHAPE, "text"),
        (None, Drop.UNKNOWN_SHAPE, "null"),
        ({"text": "x", "meta": 1}, Drop.UNKNOWN_SHAPE, "its fields are text, meta"),
        ({"instruction": "x"}, Drop.UNKNOWN_SHAPE, "its fields are instruction"),
        ({"conversations": "Hi"}, Drop.UNKNOWN_SHAPE, "its turns are no list but Hi"),
        ({"conversations": {"from": ["human"], "value": []}}, Drop.UNKNOWN_SHAPE, "no list"),
        (["Hi"], Drop.UNKNOWN_SHAPE, "turn 0 has no role: Hi"),
        ([{"value": "Hi"}], Drop.UNKNOWN_SHAPE, "turn 0 has no role"),
        ([{"from": "tool", "value": "{}"}], Drop.UNKNOWN_ROLE, "turn 0 is of 'tool'"),
        ([{"role": "user", "content": "Hi"}, {"role": "function", "content": "3"}],
         Drop.UNKNOWN_ROLE, "turn 1 is of 'function'"),
        ([{"from": 3, "value": "Hi"}], Drop.UNKNOWN_ROLE, "turn 0 is of '3'"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}],
         Drop.TOOL_CALL, "turn 0 has tool_calls"),
        ([{"from": "human", "value": None}], Drop.NOT_TEXT, "turn 0's content is null"),
        ([{"from": "human", "value": 7}], Drop.NOT_TEXT, "turn 0's content is 7"),
        ([{"from": "human"}], Drop.NOT_TEXT, "turn 0's content is null"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x.png"}]}],
         Drop.NOT_TEXT, "image_url"),
        ({"instruction": ["x"], "output": "y"}, Drop.NOT_TEXT, "instruction holds x"),
        ({"question": "x", "answer": {"a": 1}}, Drop.NOT_TEXT, 'answer is {"a": 1}'),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_dropped_by_name(record: Any, reason: Drop, detail: str) -> None:
    with pytest.raises(DropError) as dropped:
        read_turns(record)
    assert dropped.value.reason is reason
    assert detail in dropped.value.detail


def test_a_fixed_format_takes_its_shape_only() -> None:
    records: dict[Format, Any] = {
        "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}]},
        "messages": {"messages": [{"role": "user", "content": "Hi"}]},
        "alpaca": {"instruction": "Hi", "output": "Hello!"},
    }
    for kind in records:
        for shape, record in records.items():
            if shape == kind:
                assert read_turns(record, kind)[0] == Turn("user", "Hi")
            else:
                with pytest.raises(DropError):
                    read_turns(record, kind)


def test_the_format_chooses_where_a_record_has_two_shapes() -> None:
    record = {
        "messages": [{"role": "user", "content": "of messages"}],
        "prompt": "of the pair",
        "response": "x",
    }
    assert read_turns(record)[0].content == "of messages"
    assert read_turns(record, "alpaca")[0].content == "of the pair"


def test_a_record_is_told_from_a_wrapping_of_records() -> None:
    record = {"conversations": [{"from": "human", "value": "Hi"}]}
    assert is_record(record)
    assert is_record({"instruction": "Hi", "output": "x"})
    assert not is_record({"conversations": [record]})
    assert not is_record({"data": [record]})
