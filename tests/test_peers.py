"""transformers and llama.cpp compute with our files as tinygpt does, and we with theirs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_gpt
from strategies import randomised
from torch import Tensor

from tinygpt import CharTokenizer, GPTLanguageModel, Sampler, interop
from tinygpt.interop.names import names_in
from tinygpt.tokenizer import end_id_of

pytestmark = [
    pytest.mark.interop,
    pytest.mark.usefixtures("unchecked_types"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ASCII = "the quick brown fox; jumps over\n the lazy dog. \\x41 \"' 0123456789 "
CJK = "漢字かな交じり文とé, ü; 👍abc\n "
VERSE = " !$&',-.3:;?\nAb"  # tiny Shakespeare's ids up to that of ";", which is 11
LAYOUTS = ["gpt2", "nanogpt"]


@pytest.fixture(autouse=True)
def _float32(_float64: None) -> None:
    torch.set_default_dtype(torch.float32)


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs {name}: make interop")


def make(tokenizer: CharTokenizer, layout: Any = "gpt2", *, std: float = 0.15, **sizes: Any) -> GPTLanguageModel:
    model = make_gpt(layout, **{"vocab_size": tokenizer.vocab_size, "block_size": 64, "n_embd": 32} | sizes)
    randomised(model, std=std)
    return model.eval()


def prefer(model: GPTLanguageModel, id: int, strength: float) -> None:
    """Move every logit of an id up or down."""
    with torch.no_grad():
        model.get_parameter("norm.bias").add_(strength * model.get_parameter("head.weight")[id])


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_transformers_gives_our_logits(layout: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    """And our bits, after a save of its own."""
    load = peer("transformers").AutoModelForCausalLM.from_pretrained
    tokenizer = CharTokenizer.from_text(ASCII)
    model = make(tokenizer, layout, std=0.3, block_size=24).to(dtype)
    interop.save_huggingface(tmp_path, model, tokenizer)
    theirs, idx = load(tmp_path, dtype=dtype).eval(), torch.randint(tokenizer.vocab_size, (3, 24))
    torch.testing.assert_close(theirs(idx).logits, model(idx).logits, rtol=0, atol=tolerance)
    theirs.save_pretrained(tmp_path / "back")
    assert same(interop.load_huggingface(tmp_path / "back")[0], model)


@pytest.mark.parametrize("has_head", [True, False])
def test_a_model_of_transformers_comes_in(has_head: bool, tmp_path: Path) -> None:
    library = peer("transformers")
    sizes = {"vocab_size": 7, "n_positions": 6, "n_embd": 4, "n_layer": 2, "n_head": 2}
    theirs = library.GPT2LMHeadModel(library.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    randomised(theirs)
    (theirs if has_head else theirs.transformer).save_pretrained(tmp_path)
    model, _ = interop.load_huggingface(tmp_path)
    idx = torch.randint(7, (2, 6))
    torch.testing.assert_close(model(idx).logits, theirs(idx).logits, rtol=0, atol=1e-5)
    interop.save_huggingface(tmp_path / "again", model)
    assert same(library.AutoModelForCausalLM.from_pretrained(tmp_path / "again"), theirs)


@pytest.mark.parametrize("on_unknown", ["error", "skip", "x"])
def test_transformers_has_our_tokenizer(on_unknown: str, tmp_path: Path) -> None:
    """Also after a save of its own, and we have it again then."""
    load = peer("transformers").AutoTokenizer.from_pretrained
    text = (ASCII + "é漢👍") * 50
    tokenizer = CharTokenizer.from_text(text, on_unknown=on_unknown)
    interop.save_huggingface(tmp_path, make(tokenizer), tokenizer)
    load(tmp_path).save_pretrained(tmp_path / "back")
    (tmp_path / "back/config.json").write_bytes((tmp_path / "config.json").read_bytes())
    (tmp_path / "back/model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    assert interop.load_huggingface(tmp_path / "back")[1] == tokenizer
    for theirs in (load(tmp_path), load(tmp_path / "back")):
        for each in (text[:3000], *tokenizer.symbols):
            assert theirs(each, verbose=False).input_ids == tokenizer.encode(each)
            assert theirs.decode(tokenizer.encode(each)) == each
        if on_unknown == "error":
            with pytest.raises(Exception, match=r"Unk token .* not found"):
                theirs("a☃b")
        else:
            assert theirs("a☃b").input_ids == tokenizer.encode("a☃b")


def test_a_tokenizer_of_transformers_comes_in(tmp_path: Path) -> None:
    """Adapted, with the end of text that the model names."""
    transformers, tokenizers = peer("transformers"), peer("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=["</s>"], show_progress=False)
    theirs.train_from_iterator([ASCII] * 5, trainer)
    transformers.PreTrainedTokenizerFast(tokenizer_object=theirs, eos_token="</s>").save_pretrained(tmp_path)
    sizes = {"vocab_size": theirs.get_vocab_size(), "n_positions": 6, "n_embd": 4, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model, tokenizer = interop.load_huggingface(tmp_path)
    assert tokenizer is not None
    assert (tokenizer.vocab_size, tokenizer.encode("the dog")) == (model.vocab_size, theirs.encode("the dog").ids)
    assert end_id_of(tokenizer) == 0
    assert Sampler(model, tokenizer).generate("the", max_new_tokens=3, temperature=0).startswith("the")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"the tokenizer .*tokenizer\.json' cannot be read: "):
        assert interop.load_huggingface(tmp_path)[1] is None


def test_tokenizers_reads_our_tokenizer() -> None:
    tokenizer = CharTokenizer.from_text(CJK)
    theirs = peer("tokenizers").Tokenizer.from_str(interop.to_huggingface(tokenizer))
    assert theirs.encode(CJK).ids == tokenizer.encode(CJK)
    assert theirs.decode(tokenizer.encode(CJK)) == CJK


def test_transformers_generates_the_same_up_to_the_window(tmp_path: Path) -> None:
    library = peer("transformers")
    tokenizer = CharTokenizer.from_text(ASCII)
    model = make(tokenizer, std=0.3, block_size=24)
    interop.save_huggingface(tmp_path, model, tokenizer)
    theirs, prompt = library.AutoModelForCausalLM.from_pretrained(tmp_path), tokenizer.encode("the qu")
    found = theirs.generate(torch.tensor([prompt]), do_sample=False)[0].tolist()
    assert len(found) == 24
    assert found == Sampler(model, tokenizer).generate(prompt, max_new_tokens=18, temperature=0)


# --- llama.cpp --------------------------------------------------------------------------------------------------------


def completer(path: Path, n_ctx: int = 512) -> Callable[..., Any]:
    """Return a function that completes a prompt with a GGUF file, by llama.cpp inside this process."""
    library = peer("xllamacpp")
    how = library.CommonParams()
    how.model.path, how.n_ctx, how.n_parallel, how.n_gpu_layers, how.warmup = str(path), n_ctx, 1, 0, False
    how.cache_type_k = how.cache_type_v = library.ggml_type.GGML_TYPE_F32  # else its cache has 16 bits
    how.cpuparams.n_threads = how.cpuparams_batch.n_threads = 1
    how.port = how.verbosity = 0
    server = library.Server(how)

    def complete(prompt: str, n: int, **options: Any) -> Any:
        asked = {"prompt": prompt, "n_predict": n, "temperature": 0, "cache_prompt": False, "return_tokens": True}
        answer = server.handle_completions(asked | options)
        return json.loads(answer) if isinstance(answer, str) else answer

    return complete


def chances(step: Any) -> dict[int, float]:
    return {each["id"]: each["logprob"] for each in step["top_logprobs"] if each["logprob"] > -30}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("text", "end"), [(ASCII, None), (CJK, "\x03")], ids=["ascii", "cjk"])
def test_llama_cpp_writes_the_same_tokens(text: str, end: str | None, layout: str, tmp_path: Path) -> None:
    """50 greedy ones, with the log-probabilities of the whole vocabulary, and any symbol in the prompt."""
    tokenizer = CharTokenizer.from_text(text, end=end)
    model = make(tokenizer, layout)
    if tokenizer.end_id is not None:
        prefer(model, tokenizer.end_id, -1.0)  # so that the text does not end early
    interop.save_gguf(tmp_path / "model.gguf", model, tokenizer)
    ids, size = tokenizer.encode(text[:12]), tokenizer.vocab_size
    expected = Sampler(model, tokenizer).generate(ids, max_new_tokens=50, temperature=0)
    complete = completer(tmp_path / "model.gguf")
    answer = complete(text[:12], 50, n_probs=size, logprobs=size)
    assert answer["usage"] == answer["usage"] | {"prompt_tokens": 12, "completion_tokens": 50}
    steps = answer["choices"][0]["logprobs"]["content"]
    assert ids + [step["id"] for step in steps] == expected
    assert answer["choices"][0]["text"] == tokenizer.decode(expected[12:])
    with torch.no_grad():
        ours = model(torch.tensor([expected])).logits[0, 11:-1].double().log_softmax(-1)
    for row, step in zip(ours, steps, strict=True):
        check_close(row, chances(step))
    for symbol in tokenizer.symbols:
        if symbol != end:
            answer = complete(f"a{symbol}", 1, n_probs=size, logprobs=size)
            assert answer["usage"]["prompt_tokens"] == 2
            with torch.no_grad():
                row = model(torch.tensor([tokenizer.encode(f"a{symbol}")])).logits[0, -1].double().log_softmax(-1)
            check_close(row, chances(answer["choices"][0]["logprobs"]["content"][0]))


def check_close(ours: Tensor, theirs: dict[int, float]) -> None:
    assert len(theirs) > 5
    for id, chance in theirs.items():
        assert abs(ours[id].item() - chance) < 1e-3


def test_llama_cpp_writes_the_id_11(tmp_path: Path) -> None:
    """Which it would take for the end of the text, were the vocabulary of another kind."""
    tokenizer = CharTokenizer.from_text(VERSE)
    assert tokenizer.stoi[";"] == 11
    model = make(tokenizer)
    prefer(model, 11, 9.0)
    interop.save_gguf(tmp_path / "model.gguf", model, tokenizer)
    complete = completer(tmp_path / "model.gguf")
    assert complete("A", 20)["choices"][0]["text"] == ";" * 20


def test_llama_cpp_goes_on_past_the_block(tmp_path: Path) -> None:
    """150 tokens, where the table of positions has 64 rows."""
    tokenizer = CharTokenizer.from_text(ASCII)
    interop.save_gguf(tmp_path / "model.gguf", make(tokenizer), tokenizer)
    complete = completer(tmp_path / "model.gguf", n_ctx=256)
    answer = complete(ASCII[:64], 150)
    assert answer["usage"]["completion_tokens"] == 150


@pytest.mark.parametrize(("text", "end"), [(ASCII, None), (CJK, "\x03")], ids=["ascii", "cjk"])
def test_the_reader_of_gguf_finds_the_tensors(text: str, end: str | None, tmp_path: Path) -> None:
    library = peer("gguf")
    tokenizer = CharTokenizer.from_text(text, end=end)
    model = make(tokenizer)
    interop.save_gguf(tmp_path / "model.gguf", model, tokenizer)
    file = library.GGUFReader(tmp_path / "model.gguf")
    found = {each.name: torch.tensor(each.data) for each in file.tensors}
    for ours, theirs in names_in("gguf", 2):
        weight = model.get_parameter(ours)
        assert torch.equal(found[theirs][: len(weight)], weight), theirs
    assert file.fields["general.architecture"].contents() == "gpt2"
    assert file.fields["gpt2.context_length"].contents() == 256
    assert len(file.fields["tokenizer.ggml.tokens"].contents()) == tokenizer.vocab_size
