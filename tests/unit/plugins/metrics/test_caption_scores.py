"""BLEU, ROUGE-L and CIDEr against formulas written out, and against pycocoevalcap on real captions."""

import importlib.util
import json
import math
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_captions import REAL, held_out, real_photos

from plugins.metrics.caption_scores import best_constant, bleu, cider, rouge_l, tokenise

SCORES = [bleu, rouge_l, cider]

captions = st.lists(st.sampled_from("abcde"), min_size=1, max_size=7)
people = st.lists(st.lists(captions, min_size=1, max_size=3), min_size=2, max_size=5)


def words(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


@pytest.fixture(scope="module")
def photos() -> list[list[list[str]]]:
    if not REAL.is_file():
        pytest.skip(f"needs real captions at {REAL}")
    return real_photos()


# tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ('A dog, (black) runs... in a "park"!', "a dog black runs in a park"),
        ("An older woman under it's window.", "an older woman under it 's window"),
        ("The dogs’ bowls and the man’s hat", "the dogs bowls and the man 's hat"),
        ("They don't, can't and cannot; I'm sure he'd've", "they do n't ca n't and can not i 'm sure he 'd 've"),
        ("Toy animals - a walk-in T-shirt--off", "toy animals a walk-in t-shirt off"),
        ("At 3:30 p.m. 1,000 cost $2.50 & 1/2 w/ and/or", "at 3:30 p.m. 1,000 cost $ 2.50 & 1/2 w / and/or"),
        ("a cat,dog at six o'clock in a café.The end", "a cat dog at six o'clock in a café the end"),
        ("- ' .", ""),
    ],
)
def test_tokens_are_those_of_the_treebank_without_punctuation(caption, tokens):
    assert tokenise(caption) == tokens.split()


@pytest.mark.parametrize(
    ("caption", "tokens", "theirs"),
    [
        ("Mr. Lee on St. John's Rd.", "mr lee on st john 's rd", "mr. lee on st. john 's rd."),
        ("A cat (black) on [a] mat", "a cat black on a mat", "a cat -lrb- black -rrb- on -lsb- a -rsb- mat"),
        ("Wow!! What?!", "wow what", "wow !! what ?!"),
        ("He's gonna gimme it", "he 's gonna gimme it", "he 's gon na gim me it"),
        ("The end.The start", "the end the start", "the end.the start"),
        ("See http://a.com/b.jpg", "see http / / a com/b jpg", "see http://a.com/b.jpg"),
        ("So #cute, a <tag>", "so # cute a < tag >", "so #cute a <tag>"),
        ("In the '90s, y'all: rock'n'roll", "in the 90s y'all rock'n'roll", "in the '90s y' all rock 'n' roll"),
        ("A 5'10\" man", "a 5'10 man", "a 5 10 man"),
    ],
)
def test_where_tokens_differ_from_pycocoevalcaps(caption, tokens, theirs):
    """What its tokeniser gives was read off it; where it and Java are here, it is asked again."""
    assert tokenise(caption) == tokens.split()
    assert tokens != theirs
    found = their_tokens([caption])
    assert found is None or found == [theirs]


def their_tokens(texts: list[str]) -> list[str] | None:
    """By pycocoevalcap's tokeniser; None where it or Java is not here."""
    if shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None:
        return None
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    found = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    return [found[i][0] for i in range(len(texts))]


def test_tokens_of_real_captions_are_pycocoevalcaps(photos):
    texts = [record["caption"] for record in json.loads(REAL.read_text())["annotations"]]
    found = their_tokens(texts)
    if found is None:
        pytest.skip("needs pycocoevalcap and Java")
    assert len(found) == 500
    assert found == [" ".join(tokenise(text)) for text in texts]


@given(st.text(alphabet="aAnots dlé'’.,:-/!\"(&15", max_size=25))
@settings(deadline=None)
def test_tokens_of_tokens_are_the_same(text):
    assert tokenise(" ".join(tokenise(text))) == tokenise(text)


# tokens of other scripts

SPLIT = {  # with a bar before each token but the first
    "一只黑猫，在「红色」沙发上。": "一|只|黑|猫|在|红|色|沙|发|上",
    "一只cat和3只猫(黑)": "一|只|cat|和|3|只|猫|黑",
    "全角ＡＢＣ　３．５％！": "全|角|abc|3.5|%",
    "赤いソファーに猫が・・・": "赤|い|ソ|フ|ァ|ー|に|猫|が",
    "か\u3099 ｶﾞ": "が|ガ",
    "แมวสีดำ ๓ ตัวๆ": "แ|ม|ว|สี|ดำ|๓|ตั|ว|ๆ",
    "ແມວສີດຳ": "ແ|ມ|ວ|ສີ|ດຳ",
    "ឆ្មាខ្មៅ។": "ឆ្មា|ខ្មៅ",
    "ကြောင်မည်း၊": "ကြော|င်|မ|ည်း",
    "བྱི་ལ།": "བྱི|ལ",
    "ꦏꦸꦕꦶꦁ": "ꦏꦸ|ꦕꦶꦁ",
    "𠮷野家": "𠮷|野|家",
    "검은 고양이가 있다.": "검은|고양이가|있다",
    "हिन्दी में बिल्ली है।": "हिन्दी|में|बिल्ली|है",
    "Чёрный кот, п’ять!": "чёрный|кот|п'ять",
    "قطة سوداء، هنا؟": "قطة|سوداء|هنا",
    "می\u200cخواهم": "میخواهم",
    "¿Qué? «l’été»": "qué|l'été",
    "e\u0301te\u0301": "été",
    "a cat ❤️ on 猫": "a|cat|❤|on|猫",
}


@pytest.mark.parametrize(("text", "tokens"), SPLIT.items())
def test_scripts_without_blanks_are_cut_into_characters_and_others_into_words(text, tokens):
    assert tokenise(text) == tokens.split("|")


@pytest.mark.parametrize(
    "text", ["一只黑色的猫坐在沙发上", "黒い猫がソファに座っている", "แมวสีดำนั่งอยู่บนโซฟา", "ឆ្មាខ្មៅ", "ကြောင်မည်း"]
)
@pytest.mark.parametrize("blank", [" ", "\u200b", "\u3000", "、"])
def test_blanks_change_nothing_in_scripts_without_them(text, blank):
    assert tokenise(blank.join(tokenise(text))) == tokenise(text)


@given(st.text(alphabet="猫犬がアｶﾞแสีดำ์្ខ가é́ 。a'-3\u200b❤️", max_size=20))
@settings(deadline=None)
def test_tokens_of_tokens_are_the_same_in_any_script(text):
    assert tokenise(" ".join(tokenise(text))) == tokenise(text)


# BLEU


def test_bleu_by_hand():
    candidate = words("the cat sat on the mat on the mat")
    references = [words("the cat sat on the mat", "a cat is on the mat today")]
    # of its words "the" counts twice of 3 times, "on" and "mat" once of 2; of its bigrams "on the" and "the mat" too
    precisions = [6 / 9, 5 / 8, 4 / 7, 3 / 6]  # it is longer than both references: no penalty
    assert bleu(candidate, references) == pytest.approx(math.prod(precisions) ** (1 / 4), abs=1e-8)
    assert bleu(candidate, references, n=1) == pytest.approx(6 / 9, abs=1e-8)


def test_bleu_sums_over_pictures_and_punishes_what_is_shorter_than_the_closest_reference():
    candidates = words("a b c", "d e f g")
    references = [words("a b c d e f", "a b x x"), words("d e f g h", "d e f")]  # closest: 4; 3, the shorter of two
    assert bleu(candidates, references, n=2) == pytest.approx(math.sqrt(7 / 7 * 5 / 5), abs=1e-8)
    shorter = bleu(candidates, [words("a b c d e"), words("d e f g h")], n=2)
    assert shorter == pytest.approx(math.exp(1 - 10 / 7), abs=1e-8)


def test_bleu_without_a_common_4_gram_is_pycocoevalcaps_floor():
    score = bleu(words("a b c d"), [words("a b c x")])
    assert score == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1e-15) ** (1 / 4), rel=1e-6)


# ROUGE-L


def test_rouge_l_by_hand():
    # subsequences: "a c d" of 3 of 4 words (recall 3 / 6), "b e" (precision 2 / 4, recall 2 / 2)
    precision, recall = 3 / 4, 1.0
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    score = rouge_l(words("a b x e", "q"), [words("a y b z z e", "b e"), words("r s")])
    assert score == pytest.approx(expected / 2, abs=1e-12)


# CIDEr


def test_cider_by_hand():
    """Two pictures: an n-gram in one of them weighs ln 2, in both 0."""
    candidates = words("a red dog", "a cat")
    references = [words("a dog red", "a red red dog runs"), words("a cat")]
    # picture 1, first reference: "red", "dog" equal; of 2 bigrams none; nothing of three
    first = 1.0
    # second: weights red 2, dog 1, runs 1 clipped to red 1: (1*2 + 1*1) / (sqrt 2 * sqrt 6);
    # bigrams a red, red dog of (a red, red red, red dog, dog runs): 2 / (sqrt 2 * sqrt 4); no trigram; 2 bigrams longer
    second = (3 / math.sqrt(12) + 2 / math.sqrt(8)) * math.exp(-(2**2) / 72)
    # picture 2: "cat" and "a cat"; no longer n-grams
    expected = (10 / 4 * (first + second) / 2 + 10 / 4 * 2) / 2
    assert cider(candidates, references) == pytest.approx(expected, abs=1e-12)


# properties


@given(people, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_references_and_of_pictures_changes_nothing(references, random):
    candidates = [random.choice(them)[::-1] for them in references]
    for score in SCORES:
        before = score(candidates, references)
        mixed = [random.sample(them, len(them)) for them in references]
        assert score(candidates, mixed) == pytest.approx(before, abs=1e-12)
        order = random.sample(range(len(references)), len(references))
        moved = score([candidates[i] for i in order], [references[i] for i in order])
        assert moved == pytest.approx(before, abs=1e-12)


@given(people)
@settings(max_examples=50, deadline=None)
def test_a_best_constant_is_a_reference_that_none_exceeds(references):
    best = best_constant(references)
    everyone = [caption for them in references for caption in them]
    assert list(best) in everyone
    scores = [cider([caption] * len(references), references) for caption in everyone]
    assert cider([best] * len(references), references) == pytest.approx(max(scores), abs=1e-12)


def test_copies_of_references_score_full_marks():
    references = [words("a b c d e", "x y"), words("f g h i", "z"), words("j k l m n o")]
    copies = [them[0] for them in references]
    assert bleu(copies, references) == pytest.approx(1, abs=1e-8)
    assert rouge_l(copies, references) == pytest.approx(1)
    assert cider(copies, [[copy] for copy in copies]) == pytest.approx(10)


@pytest.mark.parametrize("score", SCORES)
def test_empty_captions_score_zero(score):
    references = [words("a b c d"), words("e f g h")]
    assert score([[], []], references) == 0
    assert 0 < score([[], ["e", "f", "g", "h"]], references) < score([x[0] for x in references], references)
    assert score([[], []], [[[]], [[]]]) == 0


@pytest.mark.parametrize("score", SCORES)
def test_wrong_numbers_are_named(score):
    with pytest.raises(ValueError, match="2 candidates for the references of 3 images: must be one for each"):
        score(words("a", "b"), [words("a")] * 3)
    with pytest.raises(ValueError, match=r"image 1 of 2 .* has 0 references: must be at least 1"):
        score(words("a", "b"), [words("a"), []])
    with pytest.raises(ValueError, match="references of 0 images"):
        score([], [])
    with pytest.raises(ValueError, match="'a dog' is text, must be its tokens"):
        score(["a dog", "a cat"], [words("a dog"), words("a cat")])
    with pytest.raises(ValueError, match="'a cat' is text, must be its tokens"):
        score(words("a dog", "a cat"), [words("a dog"), ["a cat"]])


def test_one_picture_has_no_rare_words():
    for call in (lambda: cider(words("a b"), [words("a b")]), lambda: best_constant([words("a b")])):
        with pytest.raises(ValueError, match="needs 2 or more, got 1"):
            call()
    with pytest.raises(ValueError, match="image 0 of 2"):
        best_constant([[], words("a")])


# real captions


@pytest.mark.parametrize(
    ("place", "figures"),
    [
        (0, [0.186561297, 0.468232980, 0.872663588]),
        (1, [0.138625870, 0.451534122, 0.765956051]),
        (2, [0.186046643, 0.449850835, 0.832846838]),
        (3, [0.183992337, 0.460388663, 0.783370392]),
        (4, [0.150119313, 0.445072644, 0.789180209]),
    ],
)
def test_the_figures_of_people(photos, place, figures):
    """BLEU-4, ROUGE-L and CIDEr of pycocoevalcap 1.2 with its own tokeniser, one of the five captions held out.

    On these captions both tokenisers agree, so that ours makes no difference.
    """
    assert [score(*held_out(photos, place)) for score in SCORES] == pytest.approx(figures, abs=1e-6)


def test_the_best_constant_of_real_captions(photos):
    best = best_constant(photos)
    assert " ".join(best) == "a toilet sitting in a bathroom next to a sink"
    assert cider([best] * len(photos), photos) == pytest.approx(0.177348977, abs=1e-6)


def theirs(candidates, references) -> list[float]:
    """BLEU-4, ROUGE-L and CIDEr by pycocoevalcap, of captions already cut into tokens."""
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    wanted = {i: [" ".join(caption) for caption in them] for i, them in enumerate(references)}
    given = {i: [" ".join(caption)] for i, caption in enumerate(candidates)}
    fourth = Bleu(4).compute_score(wanted, given, verbose=0)[0][3]
    return [fourth, Rouge().compute_score(wanted, given)[0], Cider().compute_score(wanted, given)[0]]


@pytest.mark.parametrize("place", range(5))
def test_equal_to_pycocoevalcap_on_real_captions(photos, place):
    candidates, references = held_out(photos, place)
    ours = [score(candidates, references) for score in SCORES]
    assert ours == pytest.approx(theirs(candidates, references), abs=1e-6)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_equal_to_pycocoevalcap_on_any_captions(data):
    references = data.draw(people)
    candidates = [data.draw(st.one_of(captions, st.just([]))) for _ in references]
    ours = [score(candidates, references) for score in SCORES]
    assert ours == pytest.approx(theirs(candidates, references), abs=1e-6)
