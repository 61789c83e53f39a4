"""Generation: cached equals uncached, rows and beams apart, each setting does what it says, what it costs."""

from __future__ import annotations

import itertools
import math

import pytest
import small
import torch
from small_coca import coca
from torch import nn

from core.kinds import Decoder
from core.objectives import Step
from core.types import Batch, Text, Tokens
from plugins.compute.torch_macs import counter, macs
from plugins.decoders.decoupled import DecoupledDecoder
from plugins.generation.beam import Beams
from plugins.generation.caption import caption
from plugins.generation.generate import generate, sampling_noise
from plugins.generation.sampling import NUCLEUS_TOKENS, apply_repetition_penalty, sample_token
from plugins.generation.settings import Generation
from plugins.generation.uncached import UncachedDecodeState

WORDS, END, PAD, LENGTH = 20, 2, 0, 24
MODES = ("greedy", "sample", "beam")
SOURCE = small.data()
SHAPES = [("bert", 0), ("bert", 2), ("paper", 0), ("paper", 2), ("openclip", 2)]


class Toy:
    """A random decoder and head, sharp enough that texts differ and end."""

    def __init__(
        self, layout="paper", unimodal=2, *, words=WORDS, multimodal=2, dim=16, dtype=torch.float64, sharp=3.0
    ):
        torch.manual_seed(0)
        sizes = {"unimodal": unimodal, "multimodal": multimodal, "embed_dim": dim, "num_heads": 2}
        widths = {"memory_dim": 12, "vocabulary": words, "text_length": LENGTH + 16}
        decoder = DecoupledDecoder(**sizes, layout=layout, dropout=0.0, cls=unimodal > 0, **widths)
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
        self.decoder = decoder.eval().to(dtype)
        self.head = nn.Linear(dim, words).to(dtype)
        nn.init.normal_(self.head.weight, std=sharp * dim**-0.5)
        self.words, self.dtype = words, dtype

    def memory(self, pictures=4):
        torch.manual_seed(1)
        mask = torch.ones(pictures, 7, dtype=torch.bool)
        mask[1::2, 5:] = False
        return Tokens(torch.randn(pictures, 7, 12, dtype=self.dtype), mask=mask)

    def prompts(self, lengths):
        torch.manual_seed(2)
        ids = torch.randint(3, self.words, (len(lengths), max(lengths)))
        ids[:, 0] = 1
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return Text(ids.masked_fill(~mask, PAD), mask)

    def write(self, settings, memory=None, prompts=None, **more):
        memory = self.memory() if memory is None else memory
        prompts = self.prompts([1, 3, 5, 2]) if prompts is None else prompts
        return generate(self.decoder, self.head, memory, prompts, settings, end=END, pad=PAD, **more)


def captions(model, images, settings, **more):
    return [text for text, _ in caption(model, SOURCE.tokenizer, images, settings, **more)]


def ids(written):
    return [text.ids for text in written]


@pytest.mark.parametrize(("layout", "unimodal"), SHAPES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_cached_logits_equal_uncached(layout, unimodal, dtype, close):
    """With gaps where shorter prompts end, rows that ended, beams that part and swap."""
    toy = Toy(layout, unimodal, dtype=dtype)
    memory, prompts = toy.memory(), toy.prompts([1, 3, 5, 2])
    ways = [toy.decoder.start_decoding(memory, LENGTH), UncachedDecodeState(toy.decoder, memory)]

    def agree(text):
        one, other = (toy.head(way(text))[text.mask] for way in ways)
        assert torch.allclose(one, other, rtol=0, atol=close)

    with torch.no_grad():
        agree(prompts)
        for way in ways:
            way.rows(torch.arange(4).repeat_interleave(3))
        for step in range(8):
            torch.manual_seed(step)
            alive = torch.rand(12) < 0.8
            agree(Text(torch.randint(3, WORDS, (12, 1)), alive[:, None]))
            swap = torch.randint(3, (12,)) + 3 * (torch.arange(12) // 3)
            for way in ways:
                way.rows(swap)
        agree(Text(torch.randint(3, WORDS, (12, 3)), torch.ones(12, 3, dtype=torch.bool)))  # several at once


@pytest.mark.parametrize(("layout", "unimodal"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", MODES)
def test_cached_texts_equal_uncached(mode, dtype, layout, unimodal):
    toy = Toy(layout, unimodal, dtype=dtype)
    shared = {"mode": mode, "max_length": 16, "beams": 3, "repetition_penalty": 1.3, "top_p": 0.9}
    one, other = (toy.write(Generation(**shared, cached=cached)) for cached in (True, False))
    assert ids(one) == ids(other)
    assert [t.score for t in one] == pytest.approx(
        [t.score for t in other], abs=1e-9 if dtype is torch.float64 else 1e-4
    )
    assert len({*ids(one)}) > 1


@pytest.mark.parametrize("mode", MODES)
def test_a_text_depends_on_its_own_row_alone(mode):
    """Permuting a batch permutes its texts; alone, without the padding of longer prompts, each is the same."""
    toy = Toy()
    memory, prompts, numbers = toy.memory(), toy.prompts([1, 3, 5, 2]), sampling_noise(0, range(4), 16)
    settings = Generation(mode=mode, max_length=16)
    texts = ids(toy.write(settings, memory, prompts, noise=numbers))
    order = torch.tensor([2, 0, 3, 1])
    mixed = toy.write(settings, memory.rows(order), prompts.rows(order), noise=numbers[order])
    assert ids(mixed) == [texts[i] for i in order]
    for row in range(4):
        one = slice(row, row + 1)
        assert ids(toy.write(settings, memory.rows(one), prompts.rows(one), noise=numbers[one])) == [texts[row]]


@pytest.mark.parametrize("cached", [True, False])
def test_beams_see_their_own_picture_alone(cached):
    toy = Toy()
    settings = Generation(mode="beam", beams=5, max_length=12, cached=cached)
    memory = toy.memory()
    other = memory.x.clone()
    other[1] = torch.randn_like(other[1]) * 5
    before, after = toy.write(settings, memory), toy.write(settings, Tokens(other, mask=memory.mask))
    assert [before[i] for i in (0, 2, 3)] == [after[i] for i in (0, 2, 3)]
    assert before[1] != after[1]


def test_a_beam_of_one_is_greedy():
    toy = Toy()
    for penalty in (0.0, 1.0, 2.0):
        shared = {"max_length": 16, "beams": 1, "length_penalty": penalty, "repetition_penalty": 1.5, "min_length": 3}
        one, other = (toy.write(Generation(mode=mode, **shared)) for mode in ("beam", "greedy"))
        assert ids(one) == ids(other)
        assert [t.score for t in one] == pytest.approx([t.score for t in other])


def exhaustive(toy, memory, prompt, settings):
    """Every text of at most ``max_length`` words, scored by the decoder on whole texts."""
    inner = [w for w in range(toy.words) if w != END]
    texts = [
        (*body, *last)
        for length in range(settings.max_length)
        for body in itertools.product(inner, repeat=length)
        for last in [(END,), *([(w,) for w in inner] if length == settings.max_length - 1 else [])]
    ]
    best = (-math.inf, ())
    for text in texts:
        if END in text[: settings.min_length]:
            continue
        whole = torch.tensor([[*prompt, *text]])
        states = toy.decoder(toy.decoder.encode_text(Text(whole, whole >= 0)), memory).x
        logits = toy.head(states[0])
        for place in range(settings.min_length):
            logits[len(prompt) - 1 + place, END] = -torch.inf
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, whole[0, len(prompt) :, None])
        score = float(scores.sum()) / len(text) ** settings.length_penalty
        best = max(best, (score, tuple(w for w in text if w != END)))
    return best


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("min_length", [0, 2])
def test_a_wide_beam_finds_what_an_exhaustive_search_finds(penalty, min_length):
    toy = Toy(words=4, unimodal=1, multimodal=1)
    shared = {"max_length": 4, "min_length": min_length, "length_penalty": penalty}
    memory, prompts = toy.memory(3), toy.prompts([1, 2, 3])
    with torch.no_grad():
        written = toy.write(Generation(mode="beam", beams=4**4, **shared), memory, prompts)
        for row, text in enumerate(written):
            own = prompts.ids[row][prompts.mask[row]].tolist()
            best = exhaustive(toy, memory.rows(slice(row, row + 1)), own, Generation(**shared))
            assert (text.score, text.ids) == (pytest.approx(best[0], abs=1e-9), best[1])


def by_hand(toy, memory, prompt, settings):
    """A beam search over lists of words to its very end, one picture, whole texts."""
    under_way, ended, width = [((), 0.0)], [], settings.beams
    for length in range(1, settings.max_length + 1):
        grown = []
        for text, total in under_way:
            whole = torch.tensor([[*prompt, *text]])
            scores = toy.head(
                toy.decoder(toy.decoder.encode_text(Text(whole, whole >= 0)), memory).x[0, -1]
            ).log_softmax(0)
            grown += [((*text, word), total + float(score)) for word, score in enumerate(scores)]
        best = sorted(grown, key=lambda pair: -pair[1])[: width - len(ended)]
        ended += [(total / length**settings.length_penalty, text[:-1]) for text, total in best if text[-1] == END]
        under_way = [(text, total) for text, total in best if text[-1] != END]
    return max([*ended, *((total / length**settings.length_penalty, text) for text, total in under_way)])


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_a_narrow_beam_by_hand(beams, penalty):
    toy = Toy(words=8, unimodal=1, multimodal=1, sharp=1.0)
    toy.head.bias.data[END] = 3.0  # texts end early, and longer ones may still beat them
    settings = Generation(mode="beam", beams=beams, max_length=6, length_penalty=penalty)
    memory, prompts = toy.memory(12), toy.prompts([1, 2, 3] * 4)
    written = toy.write(settings, memory, prompts)
    with torch.no_grad():
        for row, text in enumerate(written):
            own = prompts.ids[row][prompts.mask[row]].tolist()
            score, words = by_hand(toy, memory.rows(slice(row, row + 1)), own, settings)
            assert (text.score, text.ids) == (pytest.approx(score, abs=1e-9), words)


@pytest.mark.parametrize(("penalty", "goes_on"), [(2.0, True), (0.0, False)])
def test_a_search_stops_when_no_longer_text_can_win(penalty, goes_on):
    """-2.2 over 2 ** 2 is less than the -0.5 of the text that ended, over 4 ** 2 it is more."""
    settings = Generation(mode="beam", beams=2, max_length=4, length_penalty=penalty)
    beams = Beams(1, settings, END, torch.device("cpu"))
    beams.grow(torch.tensor([[-9.0, -9.0, -0.5, -2.2]]).repeat(2, 1), torch.zeros(2, 0, dtype=torch.int64))
    assert bool(beams.alive.any()) is goes_on
    assert beams.best()[0].ids == ()


def test_a_wider_beam_finds_likelier_texts():
    toy = Toy(sharp=2.0)
    scores = [
        sum(t.score for t in toy.write(Generation(mode="beam", beams=beams, max_length=8, length_penalty=0.0)))
        for beams in (1, 32)
    ]
    assert scores[1] > scores[0] + 0.1


@pytest.mark.parametrize("mode", MODES)
def test_lengths(mode):
    toy = Toy()
    toy.head.bias.data[END] = 6.0  # would end at once
    free = toy.write(Generation(mode=mode, max_length=10))
    assert any(len(text.ids) < 5 for text in free)
    longer = toy.write(Generation(mode=mode, max_length=10, min_length=5))
    assert all(5 <= len(text.ids) <= 10 and END not in text.ids for text in longer)
    toy.head.bias.data[END] = -50.0  # would never end
    assert all(len(text.ids) == 10 for text in toy.write(Generation(mode=mode, max_length=10)))


def test_repetition_is_penalised():
    toy = Toy(sharp=1.0)
    toy.head.bias.data[END], toy.head.bias.data[7] = -50.0, 9.0
    (plain, *_), (varied, *_) = (
        toy.write(Generation(max_length=10, repetition_penalty=penalty)) for penalty in (1.0, 50.0)
    )
    assert plain.ids.count(7) > 8
    assert varied.ids.count(7) == 1
    logits = torch.tensor([[2.0, -2.0, 3.0, -1.0]])
    held, mask = torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]])
    assert torch.equal(apply_repetition_penalty(logits, held, mask, 2.0), torch.tensor([[1.0, -4.0, 3.0, -1.0]]))


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}])
def test_the_narrowest_draws_are_greedy(narrow):
    toy = Toy(sharp=1.0)
    greedy = ids(toy.write(Generation(max_length=12)))
    assert ids(toy.write(Generation(mode="sample", max_length=12, **narrow))) == greedy
    assert ids(toy.write(Generation(mode="sample", max_length=12))) != greedy


def test_draws_follow_the_distribution():
    logits = torch.tensor([[1.0, 3.0, -torch.inf, 2.0, 0.0]])
    numbers = (torch.arange(20_000) + 0.5) / 20_000

    def shares(**settings):
        settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings}
        words = sample_token(logits.expand(20_000, -1), numbers, **settings)
        return words.bincount(minlength=5) / 20_000

    def expected(logits):
        return torch.tensor(logits).softmax(0)

    no = -math.inf
    assert torch.allclose(shares(), expected([1.0, 3.0, no, 2.0, 0.0]), atol=1e-3)
    assert torch.allclose(shares(temperature=2.0), expected([0.5, 1.5, no, 1.0, 0.0]), atol=1e-3)
    assert torch.allclose(shares(top_k=2), expected([no, 3.0, no, 2.0, no]), atol=1e-3)
    assert torch.allclose(shares(top_p=0.7), expected([no, 3.0, no, 2.0, no]), atol=1e-3)  # 0.64 alone is too few
    assert torch.allclose(shares(top_p=0.6), expected([no, 3.0, no, no, no]), atol=1e-3)
    edge = sample_token(logits.expand(2, -1), torch.tensor([0.0, 1.0]), temperature=1.0, top_k=0, top_p=1.0)
    assert edge.tolist() == [0, 4]


def test_a_nucleus_wider_than_the_head_is_found_by_sorting():
    """Beside a narrow row, over more words than are looked at first."""
    torch.manual_seed(0)
    logits, numbers = torch.randn(2, 3 * NUCLEUS_TOKENS, dtype=torch.float64), torch.tensor([0.9999, 0.9999])
    logits[1, 5] = 30.0
    shares, order = logits[0].softmax(0).sort(descending=True)
    last = int((shares.cumsum(0) < 0.8).sum())
    assert last > NUCLEUS_TOKENS
    assert sample_token(logits, numbers, 1.0, 0, 0.8).tolist() == [int(order[last]), 5]


def test_numbers_belong_to_rows():
    assert torch.equal(sampling_noise(3, [5, 8], 6), sampling_noise(3, [8, 5], 6)[[1, 0]])
    assert not torch.equal(sampling_noise(3, [5], 6), sampling_noise(4, [5], 6))


def test_what_is_computed_how_often():
    """The picture's keys and values once, whatever the beams; one position a row and step through the head."""
    toy = Toy("paper", 2)
    toy.head.bias.data[END] = -50.0
    keys, states = [], []
    for layer in toy.decoder.multimodal:
        layer.cross.key.register_forward_hook(lambda _, x, y: keys.append(tuple(y.shape)))
        layer.cross.value.register_forward_hook(lambda _, x, y: keys.append(tuple(y.shape)))
    toy.head.register_forward_hook(lambda _, x, y: states.append(tuple(x[0].shape)))
    toy.write(Generation(mode="beam", beams=3, max_length=5))
    assert keys == [(4, 7, 16)] * 4
    assert states == [(12, 16)] * 5


class Simple(Decoder):
    """As a third party's that reads whole texts only."""

    dim = 16

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    @property
    def embedding(self):
        return self.inner.embedding

    def encode_text(self, text):
        return self.inner.encode_text(text)

    def forward(self, words, memory):
        return self.inner(words, memory)


@pytest.mark.parametrize("mode", MODES)
def test_a_decoder_that_cannot_go_on_is_run_on_whole_texts(mode):
    toy = Toy()
    expected = ids(toy.write(Generation(mode=mode, max_length=8)))
    toy.decoder = Simple(toy.decoder)
    assert ids(toy.write(Generation(mode=mode, max_length=8))) == expected


@pytest.mark.cpu_choice
@pytest.mark.parametrize("mode", MODES)
def test_half_precision(mode):
    """Weights in bf16 or autocast: as many words as asked for, finite scores."""
    toy = Toy(dtype=torch.bfloat16)
    settings = Generation(mode=mode, max_length=8)
    assert all(math.isfinite(text.score) for text in toy.write(settings))
    toy = Toy(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(math.isfinite(text.score) for text in toy.write(settings))


def test_a_cache_saves_ten_times_the_macs():
    """Of a decoder of 12 + 12 layers, 30 words."""
    toy = Toy("paper", 12, multimodal=12, dtype=torch.float32)
    toy.head.bias.data[END] = -50.0
    counts = []
    for cached in (True, False):
        with counter() as running:
            toy.write(Generation(max_length=30, cached=cached), toy.memory(1), toy.prompts([1]))
        counts.append(macs(running))
    assert counts[1] > 10 * counts[0], f"{counts[1] / counts[0]:.1f}"


def test_faults():
    toy = Toy()
    for settings, said in (
        ({"beams": 0}, "beams is 0; it must be at least 1"),
        ({"min_length": 30}, "from 0 to below max_length, 30"),
        ({"mode": "best"}, "one of greedy, sample, beam"),
        ({"length_penalty": 11.0}, "length_penalty is 11.0; it must be from -10 to 10"),
        ({"top_p": 0.0, "temperature": 0.0}, "temperature is 0.0; it must be above 0; top_p is 0.0"),
    ):
        with pytest.raises(ValueError, match=said):
            Generation(**settings)
    with pytest.raises(ValueError, match="after a prompt of 5 it must be at most 36"):
        toy.write(Generation(max_length=37))
    assert len(toy.write(Generation(max_length=36))) == 4
    with pytest.raises(ValueError, match="a prompt is empty"):
        toy.write(Generation(), prompts=toy.prompts([1, 3, 5, 2]).map(lambda t: t & (t != t)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompts", [None, ["a small red", "the", "", "a"]])
@pytest.mark.parametrize("make", [coca, lambda: small.copa(SOURCE)], ids=["coca", "copa"])
def test_captions_of_models(make, prompts, mode):
    model, images = make(), small.batch(SOURCE, 4).images
    texts = [
        captions(model, images, Generation(mode=mode, max_length=6, cached=cached), prompts=prompts)
        for cached in (True, False)
    ]
    assert texts[0] == texts[1]
    for text, start in zip(texts[0], prompts or [""] * 4, strict=True):
        assert text.startswith(start)
        assert "[" not in text


def test_captions_begin_where_training_does():
    """CoCa: behind the prompt's words, not behind its [SEP]. COPA: beside a picture that the prompt has guided."""
    images, starts = small.batch(SOURCE, 4).images, ["a small red", "the", "", "a"]
    text, settings = SOURCE.tokenizer(starts), Generation(max_length=6)
    ends = {"end": SOURCE.tokenizer.sep, "pad": SOURCE.tokenizer.pad}

    def worded(model, memory, prompts):
        written = generate(model.decoder, model.heads["words"], memory, prompts, settings, **ends)
        return [SOURCE.tokenizer.decode([*own.tolist(), *new.ids]) for own, new in zip(text.ids, written, strict=True)]

    model = coca()
    words = Text(text.ids, text.mask & (text.ids != SOURCE.tokenizer.sep))
    expected = worded(model, model.encode_image(model.backbone.trunk(images)), words)
    assert captions(model, images, settings, prompts=starts) == expected
    unprompted = captions(model, images, settings)
    assert captions(model, images, settings, prompts=[""] * 4) == unprompted

    model, seen = small.copa(SOURCE), []
    model.decoder.multimodal[0].cross.key.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        memory = Step(model, Batch(images, text)).fuse(slice(None), model.encode_text(text)).memory
    start = Text(text.ids[:, :1], text.mask[:, :1])
    assert captions(model, images, settings, prompts=starts) == worded(model, memory, start)
    assert torch.equal(seen[0], seen[1])


def test_a_model_without_a_decoder_cannot_caption():
    model = coca()
    with pytest.raises(ValueError, match="no head 'other'; it has: image, text, temperature, words"):
        caption(model, SOURCE.tokenizer, small.batch(SOURCE, 1).images, Generation(), head="other")
    with pytest.raises(ValueError, match="1 prompts for 2 images"):
        caption(model, SOURCE.tokenizer, small.batch(SOURCE, 2).images, Generation(), prompts=["a"])
    model.decoder = None
    with pytest.raises(ValueError, match="no decoder"):
        caption(model, SOURCE.tokenizer, small.batch(SOURCE, 1).images, Generation())
