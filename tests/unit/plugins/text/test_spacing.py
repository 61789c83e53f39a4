"""Decoded texts in their usual spelling, by newly trained, BERT's and CLIP's vocabularies."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_captions import REAL
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from plugins.metrics.caption_scores import bleu, cider, rouge_l, tokenise
from plugins.text.spacing import join_words
from plugins.text.tokenizer import SPECIAL, SubwordTokenizer, load_tokenizer, train_tokenizer

ENGLISH = [
    "a black-and-white photo of a t-shirt",
    "two men in a commercial-style kitchen, upside-down.",
    "it's 6:30, don't stop",
    "they're sure he'd've said we'll go",
    "rock 'n' roll",
    "six o'clock at o'brien's, y'all",
    "the dogs' bowls",
    "the dogs' bowls and the cats' toys",
    'a 5\'10" man with a 12" pizza',
    "the '90s",
    "3.5 miles, $5.00, $1,000, 50% off, 18+",
    "he said \"hello\" to me, 'bye' to you.",
    "don't say 'hello'",
    "and/or 1/2 w/ cheese, w/o salt",
    "u.s. flag at 3 p.m. (five) [six]",
    "well... what?!",
    "x-ray #3 & r&b",
    "an 8x10 photo, 10-15 people, 1st and 2nd of the 90s",
    "two- and three-storey houses",
    "peek-a-boo",
    "toy animals - a walk-in",
    "bottom_left <tag> @home",
    "see www.a.com now",
    "-5 degrees",
]
OTHERS = [
    "l'homme qu'on voit jusqu'ici",
    "un po' di dell'acqua all'aperto",
    "п'ять котів: чорни, бели",
    "«bon» ¿que? ¡si!",
    "قطة سوداء، هنا؟",
    "10–15 people",
    "5€ and €5, £3.50",
]
UNSPACED = [
    "一只黑猫，在「红色」沙发上。",
    "一只cat和3只 dogs",
    "一只 cat, 和 3 只",
    "赤いソファに猫が。はい。いいえ",
    "がぎ カメラ",
    "แมวสีดำ 3 ตัวนั่งอยู่",
    "ไทย แมว",
    "ឆ្មាខ្មៅ។",
    "ကြောင်မည်း ၊ ကြောင်",
    "猫🐈 on a sofa 😀",
    "the word 猫 means cat",
    "검은 고양이 (둘).",
    "लाल सोफे पर बिल्ली है।",
    "“quoted” ‘single’ it’s café",
]


def trained(texts: list[str]) -> SubwordTokenizer:
    return train_tokenizer(texts, 80, 8000)


def bert(texts: list[str]) -> SubwordTokenizer:
    """A vocabulary of letters as in BERT's uncased models, with the decoder of older run folders."""
    letters = sorted(set("".join(texts)) - {" "})
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return SubwordTokenizer(tokenizer, 200)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> SubwordTokenizer:
    file = tmp_path_factory.mktemp("clip") / "merges.txt"
    file.write_text("#version: 0.2\nt h\n")
    return load_tokenizer(str(file), 200)


def decoded(tokenizer: SubwordTokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer([text]).ids[0].tolist())


@pytest.mark.parametrize("text", [*ENGLISH, *OTHERS])
def test_decoding_restores_the_usual_spacing(clip, text):
    assert decoded(trained([text]), text) == text
    assert decoded(bert([text]), text) == text
    assert decoded(clip, text) == text


@pytest.mark.parametrize("text", UNSPACED)
def test_a_trained_vocabulary_restores_blanks_and_marks_of_any_script(tmp_path, text):
    tokenizer = trained(UNSPACED)
    assert decoded(tokenizer, text) == text
    tokenizer.save(str(tmp_path))
    assert decoded(load_tokenizer(str(tmp_path), 80), text) == text


def test_blanks_are_known_to_a_vocabulary_whose_texts_had_none():
    tokenizer = trained(["แมวสีดำ"])
    assert decoded(tokenizer, "แมว ดำ") == "แมว ดำ"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一只黑猫，在「红色」沙发上。", "一只黑猫，在「红色」沙发上。"),
        ("一只 cat 3 只", "一只cat 3只"),  # the blanks are lost
        ("ไทย แมว", "ไทย แมว"),
        ("the café's façade", "the cafe's facade"),  # BERT strips accents
    ],
)
def test_berts_vocabularies(text, expected):
    assert decoded(bert([text, expected]), text) == expected


def test_english_vocabularies_have_no_token_for_blanks():
    assert trained(ENGLISH[:3]).vocabulary == max(trained(ENGLISH[:3])._tokenizer.get_vocab().values()) + 1
    assert "▁" not in trained(ENGLISH[:3])._tokenizer.get_vocab()


def test_words_that_were_written_together_stay_together():
    assert join_words("it's a -b well-known (x)") == "it's a-b well-known (x)"


@given(st.lists(st.sampled_from(["cat", "dog", "the", "red", "猫", "แมว", "кот", "2"]), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_plain_words_come_back(words):
    text = " ".join(words)
    assert decoded(TRAINED, text) == text


TRAINED = trained(["cat dog the red 猫 แมว кот 2"])


def test_scores_of_peoples_captions_survive_the_tokenizer():
    if not REAL.is_file():
        pytest.skip(f"needs real captions at {REAL}")
    photos: dict[int, list[str]] = {}
    for record in json.loads(REAL.read_text())["annotations"]:
        photos.setdefault(record["image_id"], []).append(" ".join(record["caption"].split()))
    texts = [text for captions in photos.values() for text in captions]
    tokenizer = train_tokenizer(texts, 60, 8000)
    assert [tokenise(decoded(tokenizer, text)) for text in texts] == [tokenise(text) for text in texts]
    references = [[tokenise(text) for text in captions] for captions in photos.values()]
    firsts = [captions[0] for captions in photos.values()]
    for candidates in (firsts, [decoded(tokenizer, text) for text in firsts]):
        tokens = [tokenise(text) for text in candidates]
        scores = [score(tokens, references) for score in (cider, bleu, rouge_l)]
        assert scores == pytest.approx([2.713509, 1, 1], abs=1e-4)


LANGUAGES = {
    "Chinese": ["一只黑色的猫坐在红色的沙发上", "两个男人在海滩上踢足球", "街道上停着一辆黄色的公共汽车"],
    "Japanese": ["赤いソファの上に黒い猫が座っている", "二人の男性がビーチでサッカー", "黄色いバスが道に停まる"],
    "Thai": ["แมวสีดำนั่งอยู่บนโซฟาสีแดง", "ชาย 2 คนเล่นฟุตบอลที่ชายหาด", "รถบัสสีเหลืองจอดอยู่บนถนน"],
    "Khmer": ["ឆ្មាខ្មៅអង្គុយលើសាឡុង", "បុរសពីរនាក់លេងបាល់", "រថយន្តក្រុងពណ៌លឿង"],
    "Korean": ["검은 고양이가 소파에 앉아 있다.", "두 남자가 해변에서 축구를 한다.", "노란 버스가 길에 서 있다."],
    "Hindi": ["लाल सोफे पर काली बिल्ली बैठी है।", "दो आदमी तट पर फुटबॉल खेलते हैं।", "सड़क पर पीली बस खड़ी है।"],
}


@pytest.mark.parametrize("texts", LANGUAGES.values(), ids=LANGUAGES)
def test_a_perfect_captioner_scores_full_marks_in_any_script(texts):
    tokenizer = trained(texts)
    candidates = [tokenise(decoded(tokenizer, text)) for text in texts]
    references = [[tokenise(text)] for text in texts]
    assert min(map(len, candidates)) >= 4
    assert [bleu(candidates, references), rouge_l(candidates, references)] == pytest.approx([1, 1])
    assert cider(candidates, references) == pytest.approx(10)


def test_the_chinese_case_by_its_figures():
    people = [
        ["一只黑色的猫坐在红色的沙发上", "沙发上有一只黑猫"],
        ["两个男人在海滩上踢足球", "海滩上有两个人在踢球"],
        ["街道上停着一辆黄色的公共汽车", "一辆公共汽车停在路边"],
    ]
    tokenizer = trained([text for captions in people for text in captions])
    candidates = [tokenise(decoded(tokenizer, captions[0])) for captions in people]
    references = [[tokenise(text) for text in captions] for captions in people]
    assert cider(candidates, references) == pytest.approx(6.4226, abs=1e-4)
    assert bleu(candidates, references) == pytest.approx(1)
