"""Subword tokenizers: trained on the data's captions for small runs, or loaded from a file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence

import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from core import kinds
from core.files import paths, read_text, write_text
from core.types import Text
from plugins.text import clip_bpe
from plugins.text.scripts import CHARACTER, UNSPACED
from plugins.text.spacing import BERT_SEAM, BLANK, CLIP_SEAM, MARKED_SEAM, join_words

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NEEDED = (PAD, UNK, CLS, SEP)  # [MASK] is only for masked language modelling
CLIP_ENDS = (
    (clip_bpe.START, clip_bpe.END),
    ("<|startoftext|>", "<|endoftext|>"),
)  # open_clip's names, and OpenAI's


class SubwordTokenizer(kinds.Tokenizer):
    """Texts as [CLS], the words, [SEP], padded to the longest and cut at ``length`` tokens.

    In CLIP's vocabularies [CLS] and [SEP] have other names, and padding is token 0, which is also the word "!": only
    the mask separates them. A special token spelt out in a text is tokenized as ordinary words.

    Args:
        tokenizer: of the ``tokenizers`` library; modified to pad and cut texts and to add [CLS] and [SEP].
        length: maximum number of tokens, including [CLS] and [SEP].
        source: its file, for error messages.

    Raises:
        ValueError: a special token is missing, or ``length`` leaves no room for a word.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, length: int, source: str = "tokenizer"):
        if length < 3:
            raise ValueError(f"text length is {length}; it must be at least 3: [CLS], a word and [SEP]")
        vocabulary = tokenizer.get_vocab()
        start, end = next((pair for pair in CLIP_ENDS if vocabulary.keys() >= set(pair)), (CLS, SEP))
        missing = [token for token in NEEDED if token not in vocabulary] if start == CLS else []
        if missing:
            raise ValueError(f"{source}: the vocabulary lacks {', '.join(missing)}; it must hold {', '.join(NEEDED)}")
        # threads do not help with short captions, and cause a warning in every forked data worker
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.length, self.source = length, source
        self.vocabulary = max(vocabulary.values()) + 1
        self.pad = vocabulary[PAD] if start == CLS else 0
        self.cls, self.sep, self._mask = vocabulary[start], vocabulary[end], vocabulary.get(MASK)
        tokenizer.add_special_tokens(
            [token for token in SPECIAL if token in vocabulary] if start == CLS else [start, end]
        )
        tokenizer.encode_special_tokens = True
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}", special_tokens=[(start, self.cls), (end, self.sep)]
        )
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(pad_id=self.pad, pad_token=tokenizer.id_to_token(self.pad))
        self._pieces = isinstance(tokenizer.model, models.WordPiece)
        if self._pieces:
            prefix = tokenizer.model.continuing_subword_prefix
            tokenizer.decoder = decoders.WordPiece(prefix, cleanup=False)
        self._seam = CLIP_SEAM if start != CLS else MARKED_SEAM if BLANK in vocabulary else BERT_SEAM
        self._tokenizer = tokenizer

    @property
    def mask(self) -> int:  # type: ignore[override]
        """The id of [MASK].

        Raises:
            ValueError: the vocabulary has none.
        """
        if self._mask is None:
            raise ValueError(f"{self.source}: the vocabulary has no {MASK}, which masked language modelling needs")
        return self._mask

    def __call__(self, texts: Sequence[str]) -> Text:
        rows = self._tokenizer.encode_batch_fast(list(texts))
        ids = torch.tensor([row.ids for row in rows], dtype=torch.int64)  # (B, L)
        return Text(ids, torch.tensor([row.attention_mask for row in rows], dtype=torch.bool))

    def decode(self, ids: Sequence[int]) -> str:
        """Convert ids to a string in its usual spacing, without special tokens: it's, black-and-white, 3.5."""
        text = str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)).strip()
        if self._pieces or self._seam is CLIP_SEAM:
            return join_words(text, self._seam)
        return text

    def save(self, folder: str) -> None:
        """Write ``tokenizer.json``, for ``load_tokenizer`` and transformers."""
        write_text(os.path.join(folder, "tokenizer.json"), self._tokenizer.to_str(pretty=True))


def train_tokenizer(texts: Iterable[str], length: int, size: int = 2000) -> SubwordTokenizer:
    """Train a lower-case vocabulary of at most ``size`` pieces on ``texts``, deterministically; it has all letters."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    texts = list(texts)
    tokenizer = _trainable(models.WordPiece(unk_token=UNK))
    # the library numbers the letters inside words in the order of a hash table, and breaks ties by number, so two runs
    # would differ. As special tokens they get fixed numbers; the final vocabulary does not treat them as special.
    words = tokenizer.normalizer.normalize_str(" ".join(sorted({word for text in texts for word in text.split()})))
    split = tokenizer.pre_tokenizer.pre_tokenize_str(words)
    letters = sorted({f"##{letter}" for word, _ in split for letter in word[1:]})
    blank = [BLANK] if re.search(f"[{UNSPACED}]", words) else []
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL, *blank, *letters], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = models.WordPiece(vocab=tokenizer.get_vocab(), unk_token=UNK)
    return SubwordTokenizer(_trainable(trained), length)


def load_tokenizer(path: str, length: int) -> SubwordTokenizer:
    """Load a saved vocabulary.

    Args:
        path: a ``tokenizer.json``, a ``vocab.txt`` (one piece a line, BERT's format), CLIP's merges
            (``bpe_simple_vocab_16e6.txt.gz``), or a folder with one of the first two, where tokenizer.json
            has priority. A vocab.txt with upper-case pieces is read as a cased one.
        length: maximum number of tokens of a text.

    Raises:
        ValueError: no such file, or not a vocabulary, or a special token is missing; names the file.
    """
    file = _find(path)
    if file.endswith(".gz"):
        return SubwordTokenizer(clip_bpe.from_merges(file), length, source=file)
    text = read_text(file)
    if clip_bpe.HEADER in text.partition("\n")[0]:
        return SubwordTokenizer(clip_bpe.from_merges(file), length, source=file)
    tokenizer = _from_json(file, text) if file.endswith(".json") else _from_lines(file, text)
    return SubwordTokenizer(tokenizer, length, source=file)


def _find(path: str) -> str:
    if not paths.exists(path):
        raise ValueError(f"{path}: no such file or folder; expected a tokenizer.json, a vocab.txt or a folder with one")
    if not paths.isdir(path):
        return path
    for name in ("tokenizer.json", "vocab.txt"):
        if paths.exists(os.path.join(path, name)):
            return os.path.join(path, name)
    raise ValueError(f"{path}: the folder holds neither tokenizer.json nor vocab.txt")


def _from_json(file: str, text: str) -> tokenizers.Tokenizer:
    try:
        json.loads(text)
    except ValueError as err:
        raise ValueError(f"{file}: not JSON: {err}") from err
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as err:  # the library raises no narrower class
        raise ValueError(f"{file}: not a tokenizer of the tokenizers library: {err}") from err


def _from_lines(file: str, text: str) -> tokenizers.Tokenizer:
    vocabulary: dict[str, int] = {}
    for i, piece in enumerate(text.rstrip("\n").split("\n")):
        if piece in vocabulary:
            raise ValueError(f"{file}:{i + 1}: {piece!r} stands on line {vocabulary[piece] + 1} already")
        vocabulary[piece] = i
    cased = any(piece != piece.lower() for piece in vocabulary if not piece.startswith("["))
    return _wordpiece(models.WordPiece(vocab=vocabulary, unk_token=UNK), lowercase=not cased)


def _wordpiece(model: models.WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _trainable(model: models.WordPiece) -> tokenizers.Tokenizer:
    """Lower case as BERT's, but each character of a script without blanks is a word, as BERT's Han characters are.

    Blanks beside such characters are tokens, so decoding restores them. Accents are kept: elsewhere they are letters.
    """
    tokenizer = _wordpiece(model, lowercase=True)
    blank = normalizers.Replace(Regex(rf"(?<=[{UNSPACED}])\s+|\s+(?=[{UNSPACED}])"), BLANK)
    letters = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), blank, letters])
    split = pre_tokenizers.Split(Regex(f"{CHARACTER}|{BLANK}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), split])
    return tokenizer
