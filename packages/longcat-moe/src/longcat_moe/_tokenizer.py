"""Train a small byte-level tokenizer that knows the LongCat chat markers.

- Frequent words are whole tokens, with the space or newline before them; the rest is byte-level
  BPE.
- Runs of markers that often stand together, as between the name and the value of an argument, are
  one token too. End of turn stays a token of its own, so that it can stop a generation.
- Pairs of digits and runs of punctuation are never merged with words, so that an id has the same
  tokens in a sentence and in JSON: copying is copying. For words, see `space_twins`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = "<longcat_pad>", "<longcat_s>", "</longcat_s>"
MARKERS = (
    "<longcat_tool_declare>", "</longcat_tool_declare>", "<longcat_system>", "<longcat_user>",
    "<longcat_assistant>", "<longcat_observation>", "<longcat_think>", "</longcat_think>",
    "<longcat_tool_call>", "</longcat_tool_call>", "<longcat_arg_key>", "</longcat_arg_key>",
    "<longcat_arg_value>", "</longcat_arg_value>", "<longcat_tool_response>",
    "</longcat_tool_response>",
)  # fmt: skip
"""Each is one token, in every LongCat vocabulary."""

# A space goes with the word after it, unless that is the beginning of an id.
_PIECES = r"\s?[A-Za-z_]+(?![A-Za-z_\d])|[A-Za-z_]+|\d{1,2}|[^\sA-Za-z_\d]+|\s"
_ANY_MARKER = "|".join(map(re.escape, MARKERS))
_GLUE = rf"(?:\s|/think_on|/think_off|{_ANY_MARKER})*"
_RUN = re.compile(rf"{_GLUE}(?:{_ANY_MARKER}){_GLUE}")
_MIN_COUNT = 2
_NUM_RUNS = 32


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` from texts; pad, bos, eos are 0, 1, 2.

    Raises:
        ValueError: `vocab_size` leaves no room for the 256 bytes and the markers.
    """
    fixed = [PAD, BOS, EOS, *MARKERS]
    if vocab_size < 256 + len(fixed):
        raise ValueError(f"vocab_size must be at least {256 + len(fixed)}, got {vocab_size}")
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    runs, words, plain = _count(texts, split)
    room = vocab_size - 256 - len(fixed)
    frequent = [run for run, count in runs.most_common(_NUM_RUNS) if count >= _MIN_COUNT]
    markers = [*fixed, *[run for run in frequent if run not in fixed][:room]]
    room = vocab_size - 256 - len(markers)
    # Single bytes are there already.
    whole = [w for w, n in words.most_common() if n >= _MIN_COUNT and len(w) > 1][:room]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(whole),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in markers],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(plain, trainer)
    return _with_words(tokenizer, whole)


def _count(
    texts: Iterable[str], split: pre_tokenizers.Sequence
) -> tuple[Counter[str], Counter[str], list[str]]:
    """Count runs of markers and the words between them; return those stretches too."""
    runs: Counter[str] = Counter()
    words: Counter[str] = Counter()
    plain: list[str] = []
    for text in texts:
        for turn in text.split(EOS):
            runs.update(_RUN.findall(turn))
            for stretch in filter(None, _RUN.split(turn)):
                words.update(piece for piece, _ in split.pre_tokenize_str(stretch))
                plain.append(stretch)
    return runs, words, plain


def _with_words(tokenizer: Tokenizer, words: list[str]) -> Tokenizer:
    """Add whole words that need no merges."""
    raw = json.loads(tokenizer.to_str())
    vocabulary = raw["model"]["vocab"]
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    raw["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(raw))


def space_twins(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Pairs of tokens that differ by a leading space or newline alone, that one first."""
    vocabulary = tokenizer.get_vocab()
    return sorted(
        (token, vocabulary[text[1:]])
        for text, token in vocabulary.items()
        if text[0] in "\u0120\u010a" and text[1:] in vocabulary  # how byte-level BPE writes them
    )


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read `tokenizer.json` of a checkpoint folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not a tokenizer with the LongCat markers.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"a checkpoint folder must hold tokenizer.json, none at {path}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} must be a tokenizers file: {error}") from error
    for token in (EOS, *MARKERS):
        if tokenizer.token_to_id(token) is None:
            raise ValueError(f"{path} must know the token {token!r}")
    return tokenizer
