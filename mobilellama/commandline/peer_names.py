"""Field names of other trainers and ours, for the hint in the error of an unknown field."""

OURS: dict[str, tuple[str, ...]] = {
    # Hugging Face's Trainer and LLaVA
    "model_name_or_path": ("init", "model"),
    "data_path": ("data.path", "dataset"),
    "image_folder": ("data.images", "images"),
    "image_dir": ("data.images", "images"),
    "question_file": ("input",),
    "answers_file": ("output", "answers"),
    "conv_mode": ("template",),
    "model_path": ("model",),
    "model_base": ("init",),
    "load_4bit": ("quantization",),
    "load_8bit": ("quantization",),
    "load_in_4bit": ("quantization",),
    "load_in_8bit": ("quantization",),
    "group_by_modality_length": ("data.grouping",),
    "group_by_length": ("data.grouping",),
    "freeze_backbone": ("train.language_model",),
    "tune_mm_mlp_adapter": ("train.language_model",),
    "vision_tower": ("vision",),
    "mm_projector_type": ("projector.kind",),
    "pretrain_mm_mlp_adapter": ("projector.weights",),
    "mm_projector_lr": ("optimizer.projector_learning_rate",),
    "image_aspect_ratio": ("data.aspect_ratio", "aspect_ratio"),
    "version": ("data.template", "template"),
    "output_dir": ("run.folder", "output"),
    "per_device_train_batch_size": ("train.micro_batch_size",),
    "gradient_accumulation_steps": ("train.global_batch_size",),
    "num_train_epochs": ("train.epochs",),
    "learning_rate": ("optimizer.learning_rate",),
    "weight_decay": ("optimizer.weight_decay",),
    "optim": ("optimizer.kind",),
    "report_to": ("metrics.sinks",),
    "run_name": ("run.folder",),
    "gradient_checkpointing": ("train.gradient_checkpointing",),
    "dataset": ("data.path", "sources.dataset"),
    "dataset_path": ("data.path", "sources.root"),
    "num_proc": ("workers",),
    "adapter_name_or_path": ("model",),
    "peft_model": ("model",),
    "lora_weights": ("model",),
    "adam_beta1": ("optimizer.beta1",),
    "adam_beta2": ("optimizer.beta2",),
    "adam_epsilon": ("optimizer.eps",),
    "max_grad_norm": ("optimizer.max_grad_norm",),
    "warmup_ratio": ("schedule.warmup_ratio",),
    "warmup_steps": ("schedule.warmup_steps",),
    "lr_scheduler_type": ("schedule.kind",),
    "model_max_length": ("train.seq_len", "seq_len"),
    "max_steps": ("train.max_steps",),
    "save_steps": ("checkpoint.every_steps",),
    "save_total_limit": ("checkpoint.keep_last",),
    "logging_steps": ("metrics.every_steps",),
    "eval_steps": ("validation.every_steps",),
    "bf16": ("engine.precision",),
    "fp16": ("engine.precision",),
    "dataloader_num_workers": ("data.workers", "workers"),
    "lora_r": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "seed": ("train.seed",),
    "data_seed": ("data.seed",),
    "deepspeed": ("engine.kind",),
    # OLMo-core, torchtitan, Megatron-LM and litgpt
    "lr": ("optimizer.learning_rate",),
    "min_lr": ("schedule.min_lr_ratio",),
    "lr_min": ("schedule.min_lr_ratio",),
    "lr_warmup_steps": ("schedule.warmup_steps",),
    "lr_warmup_iters": ("schedule.warmup_steps",),
    "lr_decay_style": ("schedule.kind",),
    "batch_size": ("train.micro_batch_size", "batch_size"),
    "local_batch_size": ("train.micro_batch_size",),
    "micro_batch_size": ("train.micro_batch_size",),
    "rank_microbatch_size": ("train.micro_batch_size",),
    "global_batch_size": ("train.global_batch_size",),
    "sequence_length": ("train.seq_len", "seq_len"),
    "seq_len": ("train.seq_len",),
    "seq_length": ("train.seq_len", "seq_len"),
    "max_seq_length": ("train.seq_len", "seq_len"),
    "steps": ("train.max_steps",),
    "train_iters": ("train.max_steps",),
    "epochs": ("train.epochs",),
    "clip_grad": ("optimizer.max_grad_norm",),
    "hidden_size": ("model.d_model",),
    "num_layers": ("model.n_layers",),
    "num_attention_heads": ("model.n_heads",),
    "checkpoint_dir": ("init", "run", "model"),
    "save": ("run.folder",),
    "save_interval": ("checkpoint.every_steps",),
    "log_interval": ("metrics.every_steps",),
    "out_dir": ("run.folder", "output"),
    "save_folder": ("run.folder",),
    "nnodes": ("distributed.nodes",),
    "nproc_per_node": ("distributed.devices",),
    "devices": ("distributed.devices",),
    "tokenizer_model": ("tokenizer",),
    "tokens": ("train.max_steps",),
    "train_samples": ("train.max_steps",),
    "json_keys": ("sources.text_column",),
    "input": ("sources.root", "data.path"),
    "output_prefix": ("output",),
    "dry_run": ("print_config",),
}
"""Their name, with underscores -> our names. A verb has at most one or two of them."""

_RESUMED = "the same command goes on with what is there"
_SPLIT = "ZeRO alone splits a model's state over GPUs: --engine.zero_stage"
SAYINGS = {
    "resume": _RESUMED,
    "resume_from_checkpoint": _RESUMED,
    "auto_resume": _RESUMED,
    "load": _RESUMED,
    "tensor_model_parallel_size": _SPLIT,
    "pipeline_model_parallel_size": _SPLIT,
    "tensor_parallel_degree": _SPLIT,
    "pipeline_parallel_degree": _SPLIT,
}
"""Their name, with underscores -> what holds here, where we have no such field."""


def hint(theirs: str, known: frozenset[str] | set[str], *, start: str = "--") -> str:
    """Return the end of the error of an unknown field, or an empty text.

    Args:
        theirs: the name, with underscores.
        known: the names of the verb's fields.
        start: what our name begins with: a command line's dashes; in a file, nothing.
    """
    if ours := our_name(theirs, known):
        return f"; it is {start}{ours} here"
    said = SAYINGS.get(theirs.rpartition(".")[2])
    return f"; {said}" if said else ""


def our_name(theirs: str, known: frozenset[str] | set[str]) -> str | None:
    """Return the verb's own name for a field of another trainer. None: it has no such field.

    Args:
        theirs: the name, with underscores. Of a dotted name, only the last part counts.
        known: the names of the verb's fields.
    """
    last = theirs.rpartition(".")[2]
    return next((name for name in OURS.get(last, ()) if name in known and name != theirs), None)
