"""Suggestions for unknown names: what other libraries call an argument, and near misses."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'n_head'?"`` for another library's name or a typing error, else nothing.

    Where the unit differs, the conversion comes with it.

    Example:
        >>> did_you_mean("max_length", ["max_new_tokens", "temperature"])
        "; did you mean 'max_new_tokens'? It does not count the prompt"
    """
    words = list(words)
    nearest = [ours for ours in _translate(word) if ours in words] or get_close_matches(str(word), words, n=1)
    return f"; did you mean {nearest[0]!r}?{_note(nearest[0], word, ' ')}" if nearest else ""


def way_out(where: str, word: str, known: Iterable[str], elsewhere: Mapping[str, Iterable[str]]) -> str:
    """Return what to write for an unknown argument: a known one, or the function elsewhere that takes it."""
    words, translated = list(known), _translate(word)
    if not set(translated) & set(words):
        for owner, names in elsewhere.items():
            for ours in translated:
                if ours in names:
                    return f"; use {owner}({ours}=...){_note(ours, word, ': ')}"
    return did_you_mean(word, words) or f"; see help({where})"


def _translate(word: object) -> list[str]:
    """Return the words of this library for a word of another, or for one of its own."""
    lowered = str(word).lower()
    return [ours for ours, theirs in _ELSEWHERE.items() if lowered == ours or lowered in theirs.split()]


def _note(ours: str, theirs: object, lead: str) -> str:
    words = (note for mine, words, note in _NOTES if mine == ours and str(theirs).lower() in words.split())
    return "".join(f"{lead}{note}" for note in words)


# Our word, and what nanoGPT, minGPT, PyTorch, transformers, Lightning, Keras and papers call it.
_ELSEWHERE = {
    "head_size": "head_dim d_head dim_head size_per_head key_dim",
    "n_embd": "n_embed n_emb d_model d_embed d_embd embed_dim emb_dim embd_dim embedding_dim embedding_size embed_size "
    "emb_size model_dim dim d hidden_size hidden_dim hidden width embd head_size head_dim d_head",
    "n_head": "n_heads num_heads num_head heads nhead nheads num_attention_heads attention_heads attn_heads",
    "n_layer": "n_layers num_layers num_layer layers depth n_block n_blocks num_blocks num_hidden_layers "
    "num_decoder_layers blocks",
    "block_size": "context_length context_len context_size context ctx ctx_len n_ctx n_positions seq_len seq_length "
    "sequence_length sequence_len max_seq_len max_seq_length max_sequence_length max_length max_len "
    "max_position_embeddings maxlen window window_size bptt",
    "vocab_size": "vocab n_vocab num_tokens n_tokens vocabulary_size vocab_len num_embeddings vocabulary",
    "dropout": "drop drop_rate dropout_rate dropout_p dropout_prob p_drop p p_dropout pdrop resid_pdrop attn_pdrop "
    "embd_pdrop hidden_dropout_prob attention_dropout attn_dropout residual_dropout",
    "layout": "architecture arch variant style model_type",
    "max_iters": "steps step n_steps num_steps max_steps total_steps train_steps training_steps num_train_steps "
    "max_train_steps iters n_iters n_iter num_iters iterations num_iterations n_iterations max_iter max_iterations "
    "lr_decay_iters epochs epoch n_epochs num_epochs max_epochs num_train_epochs nb_epochs",
    "batch_size": "batch bs batchsize n_batch mini_batch_size minibatch_size train_batch_size global_batch_size "
    "micro_batch_size per_device_train_batch_size",
    "learning_rate": "lr learn_rate learningrate alpha eta step_size base_lr peak_lr max_lr init_lr",
    "final_learning_rate": "min_lr lr_min eta_min end_lr final_lr lr_end min_learning_rate",
    "warmup_iters": "warmup warmup_steps num_warmup_steps n_warmup warm_up warmup_ratio",
    "weight_decay": "wd decay l2 weightdecay",
    "betas": "beta beta1 beta2 adam_beta1 adam_beta2 adam_betas",
    "grad_clip": "clip clip_norm clip_grad clip_grad_norm grad_clip_norm grad_norm_clip grad_norm max_norm "
    "max_grad_norm gradient_clip gradient_clipping gradient_clip_val clipnorm",
    "accumulation": "accumulation_steps accumulate gradient_accumulation_steps gradient_accumulation grad_accum "
    "grad_accum_steps grad_accumulation grad_accumulation_steps accumulate_grad_batches n_accum micro_batches",
    "eval_interval": "eval_every eval_steps eval_freq evaluation_interval val_interval val_every val_check_interval "
    "log_interval log_every logging_steps",
    "eval_iters": "eval_batches val_batches limit_val_batches val_steps",
    "patience": "early_stopping early_stopping_patience early_stop",
    "save_interval": "save_every save_steps save_freq checkpoint_interval checkpoint_every ckpt_interval",
    "keep_checkpoints": "save_total_limit save_top_k max_checkpoints keep_last",
    "preview_tokens": "sample_len sample_length preview_length preview",
    "max_seconds": "max_time time_limit time_budget budget max_minutes max_hours timeout",
    "make_optimizer": "optimizer_fn optimizer_factory make_optim configure_optimizers",
    "lr_schedule": "scheduler lr_scheduler schedule lr_lambda lr_schedule_fn",
    "seed": "random_seed random_state manual_seed rng_seed generator",
    "device": "accelerator gpu cuda use_gpu use_cuda",
    "precision": "dtype amp fp16 bf16 fp32 mixed_precision half use_amp autocast",
    "compile": "torch_compile use_compile jit",
    "optimizer": "optim opt optimiser optimizer_name",
    "run_dir": "output_dir out_dir log_dir logdir save_dir checkpoint_dir ckpt_dir work_dir default_root_dir directory",
    "data": "dataset train_dataset train_data train_dataloader dataloader train_loader corpus",
    "config": "cfg args settings train_config trainer_config configuration",
    "model": "net network module lm",
    "progress": "verbose progress_bar show_progress enable_progress_bar disable_tqdm quiet silent",
    "log": "logger loggers callback callbacks on_step on_log log_fn report_to",
    "resume": "resume_from_checkpoint resume_training ckpt_path continue_training",
    "max_new_tokens": "max_tokens n_tokens num_tokens max_length max_len length n_new max_new new_tokens tokens "
    "steps max_gen_len n_predict max_output_tokens",
    "temperature": "temp tau t do_sample greedy",
    "top_k": "k topk",
    "top_p": "p topp nucleus nucleus_p",
    "min_p": "minp",
    "stop": "stop_sequences stop_strings stop_words stop_token eos eos_token",
    "prompt": "text input inputs context start prefix prompts n num_return_sequences num_samples n_samples",
    "idx": "ids input_ids tokens x inputs input context",
    "stride": "step hop",
    "tokenizer": "tok tokeniser encoder encoding",
    "val_fraction": "val_split validation_split val_size test_size val_ratio split val_frac test_split valid_fraction",
    "source": "text data ids tokens corpus",
    "hidden_size": "n_inner intermediate_size d_ff ff_dim ffn_dim mlp_dim dim_feedforward hidden_dim",
    "causal": "is_causal is_decoder masked mask",
    "bias": "use_bias qkv_bias add_bias",
}

# Where others count in another unit, what to write: our word, theirs, and the formula.
_NOTES = [
    (
        "max_iters",
        "epochs epoch n_epochs num_epochs max_epochs num_train_epochs nb_epochs",
        "max_iters = epochs * len(data.train) // (batch_size * block_size)",
    ),
    ("n_embd", "head_size head_dim d_head", "n_embd = n_head * head_size"),
    ("betas", "beta beta1 beta2 adam_beta1 adam_beta2", "betas=(beta1, beta2)"),
    ("max_new_tokens", "max_length max_len", "It does not count the prompt"),
    ("device", "gpu cuda use_gpu use_cuda accelerator", "device='cuda'"),
    ("precision", "amp fp16 bf16 fp32 use_amp half autocast mixed_precision dtype", "'fp16', 'bf16', 'fp32' or 'auto'"),
    ("progress", "verbose quiet silent disable_tqdm", "progress=True or progress=False"),
    ("batch_size", "micro_batch_size per_device_train_batch_size", "It counts all micro-batches of a step"),
    (
        "accumulation",
        "gradient_accumulation_steps gradient_accumulation grad_accum grad_accum_steps grad_accumulation "
        "grad_accumulation_steps accumulate_grad_batches accumulation_steps accumulate n_accum micro_batches",
        "batch_size counts all micro-batches of a step",
    ),
    ("warmup_iters", "warmup_ratio", "warmup_iters = warmup_ratio * max_iters"),
    ("seed", "generator", "seed=0, a number"),
    ("temperature", "do_sample greedy", "temperature=0 is greedy"),
    ("prompt", "n num_return_sequences num_samples n_samples", "[text] * 3 for three texts of max_new_tokens each"),
]
