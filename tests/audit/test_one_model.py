"""One model without twins, the run's own model among twins, and planted noise, where the answer is known."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

import untrain
from untrain.audit.coins import draw_coins
from untrain.audit.one_model import find_one_model
from untrain.audit.one_model_card import finding_of
from untrain.audit.planted import Planted, find_planted, plant, remembered, with_planted
from untrain.audit.this_model import find_this_model, target_scores
from untrain.audit.within_classes import WithinClasses, p_of_largest
from untrain.data.columns import Columns
from untrain.data.splits import Split, Subset
from untrain.domain import Division
from untrain.engine import Engine
from untrain.errors import DataError, Overlap, SettingError
from untrain.tasks.classification.task import Classification


def kinds(rng, count=120, classes=4):
    """Forgotten and unseen samples of some classes, drawn from one source; the classes' levels differ by far."""
    labels = rng.integers(0, classes, count)
    forgotten = np.zeros(count, dtype=bool)
    forgotten[rng.permutation(count)[: count // 2]] = True
    return forgotten, labels, 10.0 * rng.normal(size=classes)[labels]


# ── within classes ──────────────────────────────────────────────────────────────────────────────────────────────


def test_aucs_and_their_spread_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    forgotten, labels, _ = kinds(rng, 60, 3)
    values = rng.integers(0, 5, (2, 60)).astype(float)  # with ties
    groups = WithinClasses(forgotten, labels)
    slow = []
    for row in values:
        beaten = pairs = 0.0
        for label in range(3):
            ours, others = (row[(labels == label) & (forgotten == kind)] for kind in (True, False))
            beaten += sum((a > b) + 0.5 * (a == b) for a in ours for b in others)
            pairs += len(ours) * len(others)
        slow.append(beaten / pairs)
    assert groups.aucs(values) == pytest.approx(slow)
    permuted = groups.permuted_aucs(values, rng, 20_000)
    assert permuted.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.003)
    assert permuted.std(axis=0) == pytest.approx(groups.null_sd(values), rel=0.03)


def test_a_class_of_one_kind_alone_counts_for_nothing():
    rng = np.random.default_rng(1)
    forgotten, labels, _ = kinds(rng)
    values = rng.normal(size=(1, 120))
    more = WithinClasses(np.append(forgotten, [True] * 9), np.append(labels, [7] * 9))
    assert more.aucs(np.append(values, [[99.0] * 9], axis=1)) == WithinClasses(forgotten, labels).aucs(values)


def test_no_difference_raises_no_more_alarms_than_the_level_says():
    """Over 300 models of four heavy-tailed signals, 199 permutations, though classes differ by far.

    Equal AUCs count as larger, so p is a little above uniform: over 10,000 models, 4.7 % of alarms at 5 %.
    """
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        forgotten, labels, level = kinds(rng)
        values = rng.standard_t(3, size=(4, 120)) + level
        groups = WithinClasses(forgotten, labels)
        sd = groups.null_sd(values)
        apart = np.abs(groups.aucs(values) - 0.5) / sd
        permuted = np.abs(groups.permuted_aucs(values, rng, 199) - 0.5) / sd
        found.append(p_of_largest(apart, permuted).min())
    for level in (0.05, 0.1, 0.25, 0.5):
        alarms, error = np.mean(np.array(found) <= level), np.sqrt(level * (1 - level) / 300)
        assert level - 4 * error <= alarms <= level + 2 * error


# ── one model ───────────────────────────────────────────────────────────────────────────────────────────────────


def judged(seed, effect=0.0, shift=0.0, original=1.5, exchangeable=True):
    """A model in which forgotten samples lie `effect` above unseen ones; `shift`: class 0 has more forgotten ones."""
    rng = np.random.default_rng(seed)
    forgotten, labels, level = kinds(rng, 400)
    if shift:
        labels = np.where(forgotten & (rng.random(400) < shift), 0, labels)
        level = np.where(labels == 0, 8.0, level)
    noise = rng.normal(size=(2, 400)) + level
    how = {"exchangeable": exchangeable, "seed": seed}
    found = find_one_model({"confidence": noise[0] + effect * forgotten}, forgotten, labels, **how)
    first = find_one_model({"confidence": noise[1] + original * forgotten}, forgotten, labels, **how)
    return finding_of("the model", found, first, 0)


def test_verdicts_of_one_model():
    known, pushed = judged(0, 1.0), judged(0, -2.0)
    assert (known.verdict.kind, known.verdict.subkind) == ("trace", "still-known")
    assert (pushed.verdict.kind, pushed.verdict.subkind) == ("trace", "pushed-away")
    assert pushed.values.pushed_away.ci[0] > pushed.values.pushed_away.expected
    assert pushed.values.signals["confidence"].auc < 0.2, "confidence that is lowered is found as well"
    none = judged(1)
    assert none.verdict.kind == "weak" and "weak" in none.verdict.sentence
    assert none.values.pushed_away.ci[0] < none.values.pushed_away.expected
    assert judged(1, original=0.0).verdict.kind == "blind"
    told = judged(0, 1.0, exchangeable=False)
    assert told.verdict.kind == "cannot-judge" and told.values.p is None and not told.values.signals
    assert all("p " not in row.value for row in told.card)


def test_a_shift_between_classes_fools_nobody():
    """Most forgotten samples are of a class that models are surer of: over all classes the AUC is far from ½."""
    finding = judged(2, shift=0.9)
    assert finding.verdict.kind == "weak"
    assert finding.values.confidence["forget"] > finding.values.confidence["unseen"] + 2


def test_references_take_off_what_makes_samples_hard():
    """Samples differ by far more than the effect; what three models that saw neither kind say of them shows it."""
    rng = np.random.default_rng(3)
    forgotten, labels, _ = kinds(rng, 200)
    hard = 5 * rng.normal(size=200)
    signals = {"confidence": hard + rng.normal(size=200) + 1.0 * forgotten}
    references = [{"confidence": hard + rng.normal(size=200)} for _ in range(3)]
    alone, beside = (find_one_model(signals, forgotten, labels, each, exchangeable=True) for each in ((), references))
    assert beside.p < 0.001 < 0.05 < alone.p


# ── the run's own model ─────────────────────────────────────────────────────────────────────────────────────────


def with_twins(seed, effect, leak):
    """Signals of 6 twins, and of a model that gives `leak` of the effect of each sample away."""
    rng = np.random.default_rng(seed)
    coins = draw_coins(seed, 6, 200)
    labels = rng.integers(0, 4, 200)
    kind = rng.permutation(200)
    forgotten, unseen = kind < 70, kind >= 120  # the others are matched ones
    level = 3 * rng.normal(size=200)
    each = effect * np.abs(rng.normal(size=200))
    signal = level + rng.normal(size=coins.shape) + each * coins
    target = level + rng.normal(size=200) + leak * each * forgotten
    return find_this_model(
        {"confidence": signal}, coins, {"confidence": target}, ["confidence"], (forgotten, unseen), labels, seed=seed
    )


def test_the_runs_own_model_without_a_trace_raises_no_alarm(monkeypatch):
    """Over 200 audits whose twins show a strong and uneven effect: p is uniform."""
    from untrain.audit import within_classes

    monkeypatch.setattr(within_classes.WithinClasses.permuted_aucs, "__defaults__", (99,))
    monkeypatch.setattr(within_classes.WithinClasses.resampled_aucs, "__defaults__", (20,))
    found = [with_twins(seed, 2.0, 0.0) for seed in range(200)]
    assert stats.kstest([each.p for each in found], "uniform").pvalue > 0.01
    assert np.mean([each.auc for each in found]) == pytest.approx(0.5, abs=0.012)


def test_the_runs_own_model_that_remembers_is_found():
    found = with_twins(0, 2.0, 1.0)
    assert found.p <= 0.001 and found.auc_ci[0] > 0.6 and (found.forgotten, found.unseen) == (70, 80)


def test_a_model_that_is_no_twin_has_the_score_of_one():
    """As the last twin would be scored by the others: its own coins enter nothing."""
    from untrain.audit.attack import membership_scores, other_twins

    rng = np.random.default_rng(4)
    coins, signal = draw_coins(4, 5, 100), rng.normal(size=(5, 100))
    shadows = other_twins(5)
    shadows[:4, 4] = False
    first = membership_scores(signal, coins, shadows)[4]
    assert target_scores(signal[:4], coins[:4], signal[4]) == pytest.approx(first, abs=1e-9)


# ── planted noise ───────────────────────────────────────────────────────────────────────────────────────────────


def images(count=80):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    return Columns({"input": pixels, "label": labels}, labels, [str(i) for i in range(4)])


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))


TASK = Classification(num_classes=4, mean=(0.5,), std=(0.25,))
ENGINE = Engine(torch.device("cpu"))


def test_noise_that_a_model_never_saw_is_standard_normal():
    source = images()
    base = torch.arange(80)
    values = [
        remembered(network(), TASK, source, plant(source, base, 40, 0, k), ENGINE) for k in range(25)
    ]  # 1,000 values of one model
    assert stats.kstest(np.concatenate(values), "norm").pvalue > 0.01
    found = find_planted(values)
    assert found.values == 1000 and found.ci[0] < found.mean < found.ci[1] and not found.shown


def test_noise_that_a_model_was_trained_on_is_remembered():
    """The value along the noise is that of the definition, and training on noisy copies moves it by far."""
    source = images()
    planted = plant(source, torch.arange(80), 60, 0, 1)
    split = Split(torch.tensor([0]), torch.arange(1, 80), torch.empty(0, dtype=torch.int64), "audit", {}, "")
    joined, division = with_planted(source, planted, Division(split, Subset(source, []), Subset(source, [])))
    assert division.split.forget.tolist() == [0, *range(80, 140)] and len(joined) == 140
    kept = joined.batch(torch.tensor([140 - 1, 3]))
    assert kept["index"].tolist() == [139, 3] and torch.equal(
        kept["input"][1], source.batch(torch.tensor([3]))["input"][0]
    )
    model = network(1)
    before = remembered(model, TASK, source, planted, ENGINE)
    rows = TASK.draw(joined.batch(division.split.forget[1:]), torch.Generator(), "evaluate")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        TASK.loss(model, rows).mean().backward()
        optimizer.step()
    after = remembered(model, TASK, source, planted, ENGINE)
    original, forgotten = find_planted([after]), find_planted([before], [after])
    assert original.shown and original.mean > 0 and original.p < 0.01 < forgotten.p
    x = planted.positions[:1]
    batch = TASK.draw(source.batch(x), torch.Generator(), "evaluate")
    pixels = source.batch(x)["input"].double()
    inputs = ((pixels / 255 - 0.5) / 0.25).requires_grad_(True)
    loss = nn.functional.cross_entropy(model.double()(inputs), batch["label"])
    gradient = torch.autograd.grad(loss, inputs)[0] / (255 * 0.25)
    value = (planted.noise[:1] * gradient).sum() / (planted.sigma * gradient.norm())
    assert after[0] == pytest.approx(float(value), abs=1e-4)


def test_what_is_no_image_has_no_noise_planted():
    rows = Columns({"input": torch.zeros(9, 5)}, torch.zeros(9, dtype=torch.int64))
    with pytest.raises(SettingError, match="images"):
        plant(rows, torch.arange(9), 3, 0, 0)
    with pytest.raises(SettingError, match="fewer"):
        plant(images(), torch.arange(9), 30, 0, 0)
    assert isinstance(plant(images(), torch.arange(9), 3, 0, 0), Planted)


# ── in Python ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def digits():
    """Real digits in four random parts, a model that learned the first two by heart, and two that saw the last two."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, labels = torch.tensor(pixels[order]).float().reshape(-1, 1, 8, 8) / 16, torch.tensor(labels[order])
    wrong = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < 0.2
    labels = torch.where(wrong, (labels + 3) % 10, labels)  # what must be learned by heart
    parts = {"forget": slice(0, 200), "retain": slice(200, 500), "unseen": slice(500, 700)}
    sets = {name: TensorDataset(pixels[part].clone(), labels[part].clone()) for name, part in parts.items()}

    def trained(*names, seed=0):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        x, y = (torch.cat([sets[name].tensors[i] for name in names]) for i in (0, 1))
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model

    return sets, trained("forget", "retain"), trained("retain", seed=1), trained("retain", seed=2)


def test_real_models_get_the_verdicts_that_are_due(digits):
    """A model that knows the forgotten digits is found, one that never saw them is not (p is held to 1 %)."""
    sets, original, retrained, reference = digits
    how = {**sets, "exchangeable": True, "peak_lr": 0.1}
    before = {name: values.clone() for name, values in original.state_dict().items()}
    audit = untrain.audit(original, **how)
    assert (audit.verdict.kind, audit.verdict.subkind) == ("trace", "still-known")
    assert {*audit.methods["model"].signals} == {"confidence", "nearby", "refit", "centre", "spread", "relearned"}
    assert all(torch.equal(values, before[name]) for name, values in original.state_dict().items())
    for references in ([], [reference]):
        found = untrain.audit(retrained, original=original, references=references, **how)
        assert found.original.p <= 0.01 < found.methods["model"].p and found.verdict.kind in ("weak", "trace")
    assert untrain.audit(retrained, **how).to_json() == untrain.audit(retrained, **how).to_json()
    assert untrain.audit(retrained, **sets).verdict.kind == "cannot-judge"


def test_sets_may_be_what_unlearn_takes(digits):
    sets, original, *_ = digits
    batches = {name: [(x[i : i + 50], y[i : i + 50]) for i in range(0, len(x), 50)] for name, (x, y) in tensors(sets)}
    loaders = {name: torch.utils.data.DataLoader(data, 32) for name, data in sets.items()}
    one, *others = (
        untrain.audit(original, **each, exchangeable=True).methods["model"].signals["confidence"].auc
        for each in (sets, batches, loaders)
    )
    assert others == [pytest.approx(one, abs=1e-6)] * 2


def tensors(sets):
    return [(name, data.tensors) for name, data in sets.items()]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"unseen": None}, DataError, "unseen="),
        ({"unseen": "forget"}, Overlap, "forget"),
        ({"unseen": "copied"}, Overlap, "retain set"),
        ({"unseen": "few"}, DataError, "fewer than 20"),
        ({"unseen": "unlabelled"}, DataError, "label"),
        ({"twins": 8}, SettingError, "twins"),
        ({"resume": True}, SettingError, "resume"),
        ({"references": 4}, SettingError, "list"),
        ({"task": "class-diffusion"}, untrain.UntrainError, "embedding of classes"),
    ],
)
def test_what_cannot_be_asked_of_a_model_is_said(digits, change, error, words):
    sets, original, *_ = digits
    x, y = sets["unseen"].tensors
    kept = sets["retain"].tensors
    made = {
        "forget": sets["forget"],
        "copied": TensorDataset(torch.cat([x, kept[0][:1].clone()]), torch.cat([y, kept[1][:1]])),
        "few": TensorDataset(x[:5], y[:5]),
        "unlabelled": [{"input": x}],
    }
    change = {name: made.get(value, value) if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(error, match=words):
        untrain.audit(original, **{**sets, "exchangeable": True, **change})


def test_what_cannot_be_asked_of_a_run_is_said(digits, tmp_path):
    sets, original, *_ = digits
    for name, value in {**sets, "original": original, "peak_lr": 0.1}.items():
        with pytest.raises(SettingError, match=name):
            untrain.audit(tmp_path, **{name: value})
    with pytest.raises(SettingError, match="references"):
        untrain.audit(tmp_path, references=[original])
