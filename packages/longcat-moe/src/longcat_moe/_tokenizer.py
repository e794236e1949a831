"""Train a byte-level BPE tokenizer that knows the LongCat chat markers.

Words, pairs of digits, runs of punctuation and single spaces are never merged with one another, so
that an id or a name has the same tokens in a sentence and in JSON: copying is copying.
"""

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

_PIECES = r"[A-Za-z_]+|\d{1,2}|[^\sA-Za-z_\d]+|\s"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` from texts; pad, bos, eos are 0, 1, 2.

    Raises:
        ValueError: `vocab_size` leaves no room for the 256 bytes and the markers.
    """
    special = [PAD, BOS, EOS, *MARKERS]
    if vocab_size < 256 + len(special):
        raise ValueError(f"vocab_size must be at least {256 + len(special)}, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


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
