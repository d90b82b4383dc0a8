"""Surprise in a text: where a model did not expect the next letter, such as at slips and in foreign words.

Run:   python examples/14_surprise_in_a_text.py
Takes: about 20 seconds on two cores, most of it training.

The surprise of a token is -log2 of its probability, in bits. A terminal shows each token on a background from white to
red. The probabilities after each block show where in the model a guess is made: the logit lens.
"""

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.views import read

data = TokenDataset(shakespeare(), val_fraction=0.02)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=3, n_head=4, n_embd=96)
settings = TrainerConfig(max_iters=400, batch_size=16, eval_interval=400, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings)
trainer.fit()
tokenizer = trainer.sampler().tokenizer

for text in ("My lord, I will not speak.", "My lrod, I wlil not spaek.", "Senor, no quiero hablar."):
    reading = read(trainer.model, tokenizer, text)
    print(f"\n{reading.ansi()}\n{reading.bits_per_character:.2f} bits per character")
    worst = int(reading.bits.argmax())
    guesses = ", ".join(f"{piece!r} {probability:.0%}" for _, piece, probability in reading.top[worst][:3])
    print(f"most surprising: {reading.pieces[worst]!r} at position {worst}; expected {guesses}")

reading = read(trainer.model, tokenizer, "My lord")
print("\nThe probability of the last letter of 'My lord', read out after each part of the model:")
for layer, row in enumerate(reading.lens if reading.lens is not None else []):
    print(f"{'embedding' if layer == 0 else f'block {layer - 1}':>9}  {row[-1]:.1%}")
