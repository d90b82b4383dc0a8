"""Measure in five minutes how many times as fast tinygpt is as other libraries.

Run:   NANOGPT=DIR python benchmarks/quick.py
Needs: an idle machine, a checkout of nanoGPT. Without transformers its rows are left out.

Each figure is the time of the other library divided by that of tinygpt, the median over rounds in turns.
`python benchmarks/side_by_side.py` prints such results of two machines beside each other.
"""

from functools import partial

from harness import RESULTS, corpus, in_turns, ratio, record
from peers import nanogpt, transformers
from sampling_speed import our_writers
from side_by_side import table
from small_costs import best
from training_speed import SMALL, gpt2, nanogpt_step, our_step

from tinygpt import CharTokenizer

WRITTEN = 64  # tokens


def training() -> dict[str, float]:
    """Return the ratios of nanoGPT's training step to ours."""
    _, data = corpus()
    ours = {name: our_step(data, gpt2(data, SMALL), 12, precision=name) for name in ("fp32", "auto")}
    seconds = in_turns({"nanoGPT": nanogpt_step(data, SMALL, 12), **ours}, rounds=7, calls=10)
    return {f"training step, {name}: nanoGPT": ratio(seconds[name], seconds["nanoGPT"]) for name in ours}


def writing() -> dict[str, float]:
    """Return the ratios of the peers' time to write a text to ours, for one text and for 16."""
    ratios = {}
    ours = {name: our_writers(name)[f"tinygpt, {name}"] for name in ("float32", "bfloat16")}
    peers = nanogpt() | transformers()
    for rows, title in ((1, "one text"), (16, "16 texts")):
        calls = {name: partial(write, rows, WRITTEN) for name, write in (ours | peers).items()}
        seconds = in_turns(calls, rounds=3)
        for peer in peers:
            dtype = "bfloat16" if "bfloat16" in peer else "float32"
            ratios[f"{title}, {dtype}: {peer.split(',')[0]}"] = ratio(seconds[dtype], seconds[peer])
    return ratios


def texts() -> dict[str, float]:
    """Return the ratios of the notebook's encoding and decoding to ours."""
    text, _ = corpus()
    tokenizer = CharTokenizer.from_text(text)
    stoi = {symbol: number for number, symbol in enumerate(tokenizer.symbols)}
    ids = tokenizer.encode_array(text)
    slow = best(lambda: [stoi[each] for each in text], 5), best(lambda: "".join([tokenizer.symbols[i] for i in ids]), 3)
    fast = best(lambda: tokenizer.encode_array(text)), best(lambda: tokenizer.decode(ids))
    return {"encode: the notebook": slow[0] / fast[0], "decode: the notebook": slow[1] / fast[1]}


def main() -> None:
    """Measure, record, and print a table."""
    record("quick", training() | writing() | texts())
    print(table([RESULTS / "quick.json"]))


if __name__ == "__main__":
    main()
