"""The whole pipeline on real text and images, from raw text to a model that sees: ``make demo``.

It takes about ten minutes on two CPU cores. Every step is a command, which is printed before it
runs. It is the command that a cluster runs, with a smaller preset.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from commands import command, execute, interrupt, mobilellama, require_verdict, say, start_anew
from corpus import build_corpus
from instructions import KIND, PURPOSE, build_instructions
from picture_report import plot_answers, read_answers, score_answers, shortfalls, table
from pictures import build_pictures
from report import (
    Learnt,
    constant_match,
    exact_match,
    losses,
    read_rows,
    some_answers,
    unigram_entropy,
)
from tower import SIZE_PIXELS, linear_probe, train_tower

from mobilellama.progress import format_duration
from mobilellama.run_folder import RunFolder

HERE = Path(os.path.relpath(Path(__file__).parent))
MIXTURE = HERE / "mixture.yaml"
TEMPLATE = HERE / "chat.yaml"
VOCAB_SIZE = 4096
SEQ_LEN = 256


def main() -> int:
    """Run the demo into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="made anew")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of pretraining")
    options = parser.parse_args()
    out: Path = options.output
    started_s = time.monotonic()
    os.environ["DS_ACCELERATOR"] = "cpu"  # or deepspeed warns that it finds nothing else
    start_anew(out)
    pretrain(out, options.steps)
    finetune(out)
    probe = learn_to_see(out)
    return conclude(out, probe, time.monotonic() - started_s)


def pretrain(out: Path, steps: int) -> None:
    """Make a corpus, a tokenizer, a dataset and a base model."""
    say("1  real text from this machine, laid out as RedPajama v1")
    for subset, size in build_corpus(out / "corpus").items():
        print(f"   {subset:<14} {size / 1e6:5.1f} MB")

    say("2  a sentencepiece tokenizer, since LLaMA's cannot be downloaded here")
    corpus, tokenizer, dataset = out / "corpus", out / "tokenizer.model", out / "dataset"
    mobilellama(
        "tokenize train-tokenizer", sources__root=corpus, output=tokenizer, vocab_size=VOCAB_SIZE
    )

    say("3  text to bucket files")
    mobilellama(
        "tokenize run", tokenizer=tokenizer, sources__root=corpus, output=dataset,
        heldout_share=0.01, workers=2,
    )  # fmt: skip

    say("4  a look at the shards")
    order = {"dataset": dataset, "seq_len": SEQ_LEN, "mixture": MIXTURE}
    mobilellama("shards verify", dataset=dataset)
    mobilellama("shards info", **order)
    mobilellama("shards show", **order, position=0)
    mobilellama("shards plot", **order, output=out / "dataset.png")

    say("5  pretraining: DeepSpeed ZeRO-1 on two processes, interrupted, and resumed")
    run = RunFolder(out / "run")
    training = {
        "config": "demo",
        "data.path": dataset,
        "data.mixture": MIXTURE,
        "run.folder": run.path,
        "train.max_steps": steps,
    }
    interrupt(command("pretrain run", training), run, after_step=steps // 2)
    mobilellama("pretrain run", **training)
    require_verdict(run, "finished")

    say("6  the loss curve")
    entropy = unigram_entropy(dataset, mixture=MIXTURE, seq_len=SEQ_LEN)
    mobilellama("pretrain plot", run=run.path, output=out / "loss.png", baseline=round(entropy, 4))

    say("7  a Hugging Face folder, loaded by transformers alone")
    mobilellama("pretrain export", checkpoint=run.path, output=out / "model")
    execute([sys.executable, str(HERE / "generate.py"), str(out / "model")])


def finetune(out: Path) -> None:
    """Make instructions and a chat model, and ask base and chat model the same questions."""
    say("8  conversations about the standard library, packed into rows with masks")
    conversations, prompts = out / "instructions/train.json", out / "instructions/heldout.jsonl"
    made = build_instructions(out / "instructions")
    print(
        f"   {made:,} conversations, and {len(read_rows(prompts))} questions on other definitions"
    )
    mobilellama(
        "sft prepare", data__path=conversations, tokenizer=out / "tokenizer.model",
        template=TEMPLATE, output=out / "chats", seq_len=SEQ_LEN, heldout_share=0.04, workers=2,
    )  # fmt: skip

    say("9  finetuning, from the base model's checkpoint: ZeRO-1 on two processes")
    mobilellama(
        "sft run", config="demo_sft", init=out / "run", data__path=out / "chats",
        run__folder=out / "chat_run",
    )  # fmt: skip
    require_verdict(RunFolder(out / "chat_run"), "finished")
    mobilellama("sft export", checkpoint=out / "chat_run", output=out / "chat_model")

    say("10 what base and chat model answer to questions that neither has learnt from")
    asked = {"input": prompts, "batch_size": 50, "max_new_tokens": 16}
    mobilellama(
        "sft generate", model=out / "model", template=TEMPLATE,
        output=out / "answers_base.jsonl", **asked,
    )  # fmt: skip
    mobilellama("sft generate", model=out / "chat_model", output=out / "answers.jsonl", **asked)
    print(f"\n{some_answers(out / 'answers_base.jsonl', out / 'answers.jsonl')}")

    say("11 a chat")
    name = read_rows(prompts)[0]["prompt"].removeprefix(KIND.partition("{}")[0]).strip("`?")
    talk(out / "chat_model", name)


def learn_to_see(out: Path) -> float:
    """Give the chat model eyes, and ask it about pictures that nothing has learnt from.

    Returns:
        The share of their digits that a linear model reads off the tower.
    """
    say("12 pictures of handwritten digits, and a small vision tower trained on their captions")
    pictures, tower = out / "pictures", out / "tower"
    images = pictures / "images"
    made = build_pictures(pictures, text_only=out / "instructions/train.json")
    print(f"   {len(made.train):,} pictures, and {len(made.heldout)} of scans that are held out")
    train_tower(made.train, images, tower)
    probe = linear_probe(tower, made.train, made.heldout, images)
    print(f"   {probe:.1%} of the held-out digits can be read off the tower by a linear model")

    say("13 the first stage: captions; ZeRO-2 on two processes")
    captions = {"data__path": pictures / "captions.json", "data__images": images}
    mobilellama(
        "vlm check-data", data__path=pictures / "captions.json", images=images, plain="true",
        aspect_ratio="square", size_pixels=SIZE_PIXELS,
    )  # fmt: skip
    mobilellama(
        "vlm run", config="demo_pretrain", init=out / "chat_model", vision=tower, **captions,
        run__folder=out / "see_run1",
    )  # fmt: skip
    require_verdict(RunFolder(out / "see_run1"), "finished")

    say("14 the second stage: conversations about one picture, about two, and about none")
    mobilellama(
        "vlm run", config="demo_instruct", init=out / "see_run1",
        data__path=pictures / "conversations.json", data__images=images,
        data__template=TEMPLATE, run__folder=out / "see_run2",
    )  # fmt: skip
    require_verdict(RunFolder(out / "see_run2"), "finished")
    mobilellama("vlm export", checkpoint=out / "see_run2", output=out / "picture_model")

    say("15 what it answers about pictures of scans that are held out")
    asked = pictures / "questions.jsonl"
    mobilellama(
        "vlm generate", model=out / "picture_model", input=asked, images=images,
        output=out / "picture_answers.jsonl", batch_size=64, max_new_tokens=16,
    )  # fmt: skip
    plot_answers(read_answers(out / "picture_answers.jsonl"), images, out / "pictures.png")
    shown = images / read_answers(asked)[0]["image"]
    argv = command("vlm chat", {"model": out / "picture_model", "image": shown, "temperature": 0})
    execute(argv, lines=["Which digit is in the picture?", "Is the digit even or odd?"])
    return probe


def talk(model: Path, name: str) -> None:
    """Ask a model the two kinds of questions about a definition."""
    argv = command("sft chat", {"model": model, "temperature": 0, "max_new_tokens": 48})
    execute(argv, lines=[KIND.format(name), PURPOSE.format(name)])


def conclude(out: Path, probe: float, elapsed_s: float) -> int:
    """Print what was learnt and made, and how to look further; fail if too little was learnt."""
    run, chat_run = RunFolder(out / "run"), RunFolder(out / "chat_run")
    answers = losses(chat_run, "validation_loss")
    learnt = Learnt(
        entropy=unigram_entropy(out / "dataset", mixture=MIXTURE, seq_len=SEQ_LEN),
        training_loss=losses(run, "loss")[-1],
        heldout_loss=losses(run, "validation_loss")[-1],
        answer_loss_before=answers[0],
        answer_loss_after=answers[-1],
        match_before=exact_match(out / "answers_base.jsonl"),
        match_after=exact_match(out / "answers.jsonl"),
        match_constant=constant_match(out / "instructions/heldout.jsonl"),
    )
    say(f"done in {format_duration(elapsed_s)}")
    scores = score_answers(read_answers(out / "picture_answers.jsonl"))
    print(learnt.table())
    print(table(scores, probe=probe))
    print(f"""
made
  {out}/corpus/            text in RedPajama's layout
  {out}/dataset/           bucket files; picture: {out}/dataset.png
  {out}/run/               checkpoints, metrics.jsonl, TensorBoard
  {out}/loss.png           the loss curve
  {out}/model/             the base model, a Hugging Face folder
  {out}/instructions/      conversations, and questions that are held out
  {out}/chats/             the conversations, packed and masked; report.json
  {out}/chat_run/          the finetuning run
  {out}/chat_model/        the chat model, a Hugging Face folder
  {out}/answers.jsonl      its answers; the base model's: {out}/answers_base.jsonl
  {out}/pictures/          pictures, and records about them; {out}/tower/: the tower
  {out}/see_run1/          the runs of the two stages that make it see; {out}/see_run2/
  {out}/picture_model/     the model that sees
  {out}/pictures.png       some of its answers

look further
  source .venv/bin/activate
  mobilellama sft chat {out}/chat_model
  mobilellama vlm chat {out}/picture_model --image {out}/pictures/images/0000_0.png
  tensorboard --logdir {out}
  mobilellama pretrain replay {out}/run --step 1
  mobilellama shards info {out}/dataset --mixture {MIXTURE}
  python {HERE}/generate.py {out}/model""")
    wanting = [*learnt.shortfalls(), *shortfalls(scores)]
    for rule in wanting:
        print(f"\ndemo: {rule}")
    return 1 if wanting else 0


if __name__ == "__main__":
    sys.exit(main())
