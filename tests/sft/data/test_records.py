from typing import Any

import pytest

from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.reasons import Drop, DropError
from mobilellama.sft.data.records import Format, is_record, read_record, read_turns
from mobilellama.sft.data.turns import ROLES

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
        # a system text beside the turns; one of them may be empty, or say the same
        ({"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"},
                                                  {"from": "gpt", "value": "Hello!"}]}, TOLD),
        ({"system": " Be kind.", "messages": [{"role": "system", "content": "Be kind."},
                                             {"role": "user", "content": "Hi"},
                                             {"role": "assistant", "content": "Hello!"}]}, TOLD),
        ({"system": "Be kind.", "messages": [{"role": "system", "content": ""},
                                             {"role": "user", "content": "Hi"},
                                             {"role": "assistant", "content": "Hello!"}]}, TOLD),
        ({"system_prompt": "", "conversations": [{"from": "human", "value": "Hi"},
                                                 {"from": "gpt", "value": "Hello!"}]}, HELLO),
        # OpenAI
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "Hello!"}]}, HELLO),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"},
                                                    {"type": "text", "text": ""}]},
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
        ({"query": "Hi", "response": "Hello!"}, HELLO),
        # a part of a question that is empty, or blank, is not joined
        ({"instruction": "", "input": "Hi", "output": "Hello!"}, HELLO),
        ({"instruction": " \n", "input": "Hi", "output": "Hello!"}, HELLO),
        ({"instruction": None, "input": "Hi", "output": "Hello!"}, HELLO),
        ({"input": "Hi", "output": "Hello!"}, HELLO),
        ({"instruction": "Hi", "input": " ", "output": "Hello!"}, HELLO),
        ({"instruction": "", "prompt": "Hi", "output": "", "response": "Hello!"}, HELLO),
        # the rounds before
        ({"instruction": "Hi", "output": "Hello!", "history": []}, HELLO),
        ({"instruction": "And you?", "output": "Too.", "system": "Be kind.",
          "history": [["Hi", "Hello!"]]},
         [*TOLD, Turn("user", "And you?"), Turn("assistant", "Too.")]),
        ({"query": "And you?", "response": "Too.",
          "history": [{"role": "user", "content": "Hi"},
                      {"role": "assistant", "content": "Hello!", "weight": 0}]},
         [HELLO[0], Turn("assistant", "Hello!", learnt=False),
          Turn("user", "And you?"), Turn("assistant", "Too.")]),
        # two fields that say the same
        ({"prompt": "Hi", "question": "Hi ", "answer": "Hello!"}, HELLO),
        ({"instruction": "Hi", "input": "", "output": "Hello!",
          "text": "### Instruction:\nHi\n\n### Response:\nHello!"}, HELLO),
        ({"prompt": "Hi", "prompt_id": "7", "messages": [
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}, HELLO),
        # as 'sft generate' writes a conversation: the answer beside it
        ({"messages": [{"role": "user", "content": "Hi"}], "answer": "Hello!", "finish": "stop",
          "tokens": 3}, HELLO),
        # an empty list of turns beside a pair
        ({"conversations": [], "instruction": "Hi", "output": "Hello!"}, HELLO),
        # what is empty in JSON of its own, or is no more than a switch
        ({"prompt": "Hi", "response": "Hello!", "tools": "[]", "functions": "null"}, HELLO),
        ({"prompt": "Hi", "response": "Hello!", "thinking": False, "reasoning": True}, HELLO),
        # a pair that stands there once more in a prompt's words
        ({"instruction": "Hi", "output": "Hello!", "prompt": "### Task: Hi\n### Answer: Hello!"},
         HELLO),
        ({"question": "Hi", "answer": "Hello!", "prompt": "Q: Hi A: Hello!\n"}, HELLO),
        ({"instruction": "Hi", "output": "Hello!", "text": "<s>Hi [/INST] Hello!</s>"}, HELLO),
        # the result that an answer comes to
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "Hello!"}], "answer": "Hello"}, HELLO),
        # what says nothing, as tables spell it
        *(({"instruction": "Hi", "output": "Hello!", **nothing}, HELLO)
          for nothing in ({"history": "[]"}, {"history": [["", ""]]}, {"history": "null"},
                          {"images": "[]"}, {"chosen": "None"}, {"num_images": 0},
                          {"input": []}, {"input": {}}, {"label": "[]"})),
        # names in other spellings
        ({"Instruction": "Hi", "Output": "Hello!", "systemPrompt": "Be kind."}, TOLD),
        # a pair whose question is empty: clean.py's to judge, not a missing shape
        ({"instruction": "", "output": "Hello!"}, [Turn("user", ""), Turn("assistant", "Hello!")]),
    ],
)  # fmt: skip
def test_each_shape_is_read(record: Any, turns: list[Turn]) -> None:
    assert read_turns(record) == turns


@pytest.mark.parametrize(
    "name", ["history", "chat_history", "Conversation History", "dialogHistory"]
)
def test_the_rounds_before_a_question_are_read_under_each_of_their_names(name: str) -> None:
    record = {"instruction": "And you?", "output": "Well.", name: [["Hi", "Hello!"]]}
    assert [turn.content for turn in read_turns(record)] == ["Hi", "Hello!", "And you?", "Well."]


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
        ({"prompt": "Hi", "answer": "Hello!", "finish_reason": "length"}, True),
        ({"messages": [{"role": "user", "content": "Hi"}], "answer": "Hello!",
          "finish": "length"}, True),
        ([{"role": "user", "content": "Hi"},
          {"role": "assistant", "content": "Hello!", "cut": 1.0}], True),
        ([{"role": "user", "content": "Hi"},
          {"role": "assistant", "content": "Hello!", "prefix": True}], True),
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
        ({"conversations": "Hi"}, Drop.UNKNOWN_SHAPE, "its turns are not a list but Hi"),
        ({"conversations": {"from": ["human"], "value": []}}, Drop.UNKNOWN_SHAPE, "not a list"),
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
        ({"prompt": "x", "question": "y", "answer": "z"}, Drop.AMBIGUOUS, "prompt and question"),
        ({"instruction": "x", "context": "y", "input": "z", "output": "a"},
         Drop.AMBIGUOUS, "input and context"),
        ({"question": "x", "answer": "y", "output": "z"}, Drop.AMBIGUOUS, "output and answer"),
        ({"question": "x", "options": ["y", "z"], "answer": "y"},
         Drop.AMBIGUOUS, "question and options"),
        ({"question": "x", "passage": "y", "context": "z", "answer": "a"},
         Drop.AMBIGUOUS, "context and passage"),
        ({"instruction": "x", "text": "y", "output": "z"}, Drop.AMBIGUOUS, "instruction and text"),
        ({"question": "x", "answer": "y", "answers": ["y", "z"]},
         Drop.AMBIGUOUS, "answer and answers"),
        ({"problem": "x", "prompt": "y", "answer": "z"}, Drop.AMBIGUOUS, "prompt and problem"),
        ({"question": "x", "Question": "y", "answer": "z"}, Drop.AMBIGUOUS, "two spellings"),
        ({"system": "x", "system_prompt": "y", "prompt": "z", "answer": "a"},
         Drop.AMBIGUOUS, "system and system_prompt"),
        ({"system": "x", "messages": [{"role": "system", "content": "y"}]},
         Drop.AMBIGUOUS, "system, and a system turn in messages"),
        ({"conversations": [{"from": "human", "value": "x"}],
          "messages": [{"role": "user", "content": "y"}]},
         Drop.AMBIGUOUS, "conversations and messages"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
          "answer": "z"}, Drop.AMBIGUOUS, "messages and answer"),
        ({"messages": [{"role": "user", "content": "x"}], "history": [["y", "z"]]},
         Drop.AMBIGUOUS, "messages and history"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "yes"}],
          "answer": "y"}, Drop.AMBIGUOUS, "messages and answer"),
        ({"prompt": "x: y", "question": "y", "answer": "z"}, Drop.AMBIGUOUS, "prompt and question"),
        ({"question": "x", "A": "y", "B": "z", "answer": "A"}, Drop.AMBIGUOUS, "it has a and b"),
        ({"question": "x", "option_a": "y", "answer": "A"}, Drop.AMBIGUOUS, "option_a"),
        ({"instruction": "x", "content": "y", "output": "z"}, Drop.AMBIGUOUS, "and content"),
        ({"instruction": "x", "output": "y", "output_2": "z"}, Drop.AMBIGUOUS, "and output_2"),
        ({"question": "x", "answer": "y", "response_k": "z"}, Drop.AMBIGUOUS, "and response_k"),
        ({"messages": [{"role": "user", "content": "x"}], "chat_history": [["y", "z"]]},
         Drop.AMBIGUOUS, "messages and chat_history"),
        ({"prompt": "x", "answer": "y", "history": [["a", "b"]], "chat_history": [["c", "d"]]},
         Drop.AMBIGUOUS, "history and chat_history"),
        ({"prompt": "x", "answer": "y", "history": "z"}, Drop.HISTORY, "z"),
        ({"prompt": "x", "answer": "y", "history": [["z"]]}, Drop.HISTORY, 'round 0 is ["z"]'),
        ({"prompt": "x", "answer": "y", "history": [["z", 7]]},
         Drop.NOT_TEXT, "round 0 of its history is 7"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, Drop.PREFERENCE, "chosen: y"),
        ({"prompt": "x", "completion": "y", "label": False}, Drop.PREFERENCE, "label: false"),
        ({"messages": [{"role": "user", "content": "x"}], "rejected_response": "y"},
         Drop.PREFERENCE, "rejected_response: y"),
        ({"prompt": "x", "response": "y", "reasoning": "z"}, Drop.REASONING, "reasoning: z"),
        ({"Question": "x", "Complex_CoT": "y", "Response": "z"},
         Drop.REASONING, "complex_cot: y"),
        ({"prompt": "x", "response": "y", "assistant": "z"},
         Drop.AMBIGUOUS, "response and assistant"),
        ({"prompt": "x", "answer": "y", "history": [{"user": "z", "assistant": "a"}]},
         Drop.HISTORY, "round 0 is"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "y"}]},
         Drop.TOOL_CALL, "it has tools"),
        ({"prompt": "x", "response": "y", "functions": "z"}, Drop.TOOL_CALL, "it has functions"),
        ({"image": "x.png", "question": "<image> x", "answer": "y"}, Drop.MEDIA, "image: x.png"),
        ({"videos": ["x.mp4"], "prompt": "x", "answer": "y"}, Drop.MEDIA, "videos"),
        ({"prompt": "x", "answer": "y", "weight": 0.5}, Drop.WEIGHT, "it has weight: 0.5"),
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
    with pytest.raises(DropError) as dropped:
        read_turns(record)
    assert dropped.value.reason is Drop.AMBIGUOUS
    reading = read_record(record, "messages")
    assert [turn.content for turn in reading.turns] == ["of messages"]
    assert reading.unread == ("prompt", "response")
    assert read_turns(record, "alpaca")[0].content == "of the pair"


def test_a_record_is_told_from_a_wrapping_of_records() -> None:
    record = {"conversations": [{"from": "human", "value": "Hi"}]}
    assert is_record(record)
    assert is_record({"instruction": "Hi", "output": "x"})
    assert is_record({"prompt": "Hi", "chosen": [], "rejected": []})
    assert not is_record({"conversations": [record]})
    assert not is_record({"data": [record]})
