"""main.py --given: models that complete digits, against torch.distributions and by hand, and from flags to files."""

import math
import re
import shutil

import pytest
import torch
from helpers import assert_figure, assert_same_weights, best_checkpoint, interrupt_in_epoch, last_checkpoint, logged
from torch.distributions import Bernoulli, Normal, kl_divergence

import main
from data import create_mnist_dataloaders
from evaluation import completion
from evaluation.models import TABLE, load_model
from generators.completion import QUADRANTS, build_completion, given_pixels
from main import Losses
from training import UserError
from training.checkpoints import save_checkpoint

pytestmark = pytest.mark.xdist_group("completion")

SIZES = ["--hidden-size", 16, "--epochs", 3]
NLL = r"Conditional NLL: (\d+\.\d\d) \+- \d+\.\d\d nats per image "


@pytest.fixture(scope="module")
def trained(tiny_mnist, tmp_path_factory):
    """(output root, {model: (history, log)}) of the network and the CVAE for two quadrants."""
    root = tmp_path_factory.mktemp("completion")
    flags = [*SIZES, "--given", 2, "--data-root", tiny_mnist, "--output-root", root]
    return root, {name: logged(main.main, "--model", name, *flags) for name in ("NN", "CVAE")}


@pytest.fixture
def copied(trained, tmp_path):
    """tmp_path, into which the checkpoints of `trained` are copied."""
    return shutil.copytree(trained[0] / "models", tmp_path / "models").parent


def test_the_quadrants_that_are_given():
    corners = {given: given_pixels(given)[0, ::27, ::27].tolist() for given in QUADRANTS}
    assert corners == {
        1: [[False, False], [True, False]],  # of the upper row, and the lower one
        2: [[True, False], [True, False]],
        3: [[True, True], [True, False]],
    }
    assert [given_pixels(given).sum().item() for given in QUADRANTS] == [14 * 14, 2 * 14 * 14, 3 * 14 * 14]


@pytest.mark.parametrize("given", QUADRANTS)
@pytest.mark.parametrize("name", ["NN", "CVAE"])
def test_what_is_given_stays_and_what_is_missing_is_not_looked_at(name, given):
    model, mask = build_completion(name, 16, 3, given=given).eval(), given_pixels(given)[0]
    xs = torch.rand(4, 1, 28, 28)
    others = torch.where(mask, xs, torch.rand(4, 1, 28, 28))
    zs = torch.randn(5, 4, 3)
    complete = model if name == "NN" else lambda images: model.complete(images, zs)
    found = complete(xs)
    assert found.shape == ((5,) if name == "CVAE" else ()) + xs.shape
    assert torch.equal(found[..., mask], xs.expand_as(found)[..., mask])
    assert torch.equal(found[..., ~mask], complete(others)[..., ~mask])
    if name == "CVAE":
        assert torch.equal(model(xs)[3], model(others)[3])  # the prior's
        assert not torch.equal(model(xs)[1], model(others)[1])  # the recognition network sees all
    known = torch.where(mask, torch.rand(4, 1, 28, 28), xs)
    assert not torch.equal(found[..., ~mask], complete(known)[..., ~mask])


def test_the_losses_are_of_the_missing_pixels_alone():
    model, xs, missing = (
        build_completion("CVAE", 16, 3, given=1).double(),
        torch.rand(8, 1, 28, 28).double(),
        ~given_pixels(1),
    )
    outputs = model(xs)
    recon = -Bernoulli(outputs[0], validate_args=False).log_prob(xs)[..., missing[0]].sum(dim=(1, 2)).mean()
    kl = kl_divergence(Normal(*outputs[1:3]), Normal(*outputs[3:])).sum(dim=1).mean()
    loss, metrics = Losses(given=1)(outputs, xs)
    assert metrics == pytest.approx({"loss": (recon + kl).item(), "recon": recon.item(), "kl": kl.item()})
    loss.backward()
    assert all(weights.grad is not None and weights.grad.any() for weights in model.parameters())
    network = build_completion("NN", 16, given=1).double()
    _, metrics = Losses(beta=None, given=1)(network(xs), xs)
    expected = -Bernoulli(network(xs), validate_args=False).log_prob(xs)[..., missing[0]].sum(dim=(1, 2)).mean()
    assert metrics == pytest.approx({"loss": expected.item()})


def full_bound(model, xs):
    """The importance-weighted bound with torch.distributions, to differentiate, as many samples as the model takes."""
    q, p = Normal(*model.encoder(xs)), Normal(*model.prior(model.known(xs)))
    zs = q.rsample((model.samples,))
    log_p = (
        Bernoulli(model.complete(xs, zs), validate_args=False).log_prob(xs)[..., ~given_pixels(3)[0]].sum(dim=(2, 3))
    )
    log_w = log_p + (p.log_prob(zs) - q.log_prob(zs)).sum(dim=-1)
    return math.log(model.samples) - log_w.logsumexp(dim=0)


def test_importance_weighted_gradients_have_the_mean_of_those_of_the_whole_bound_the_prior_networks_too():
    model, xs = (
        build_completion("CVAE", 8, 2, 4, given=3).double(),
        torch.rand(1, 1, 28, 28).double().expand(200, 1, 28, 28),
    )
    watched = [getattr(net, part).bias for net in (model.encoder, model.prior) for part in ("mu", "sigma")]
    found = {"ours": [], "whole": []}
    for _ in range(30):
        for kind, loss in (("ours", Losses(given=3)(model(xs), xs)[0]), ("whole", full_bound(model, xs).mean())):
            found[kind].append(torch.cat([loss[None], *torch.autograd.grad(loss, watched)]).detach())
    ours, whole = (torch.stack(rows) for rows in found.values())
    error = ((ours.var(dim=0) + whole.var(dim=0)) / 30).sqrt()
    assert ((ours.mean(dim=0) - whole.mean(dim=0)).abs() < 4 * error).all()
    assert (whole.mean(dim=0).abs() > 4 * error).any()


@pytest.mark.parametrize("name", ["NN", "CVAE"])
def test_the_log_the_files_and_the_test_loss(name, trained, tiny_mnist):
    root, runs = trained
    history, log = runs[name]
    assert log[1].startswith(f"Model: {name}, 784 -> 16 -> 16 -> 16 -> {50 if name == 'CVAE' else 16} -> 16 -> ")
    assert f"model {name}, given 2, hidden_size 16" in log[2]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    model, checkpoint = load_model(f"MNIST_{name}_given2", root)
    assert log[-1] == f"Test Loss: {checkpoint['test_loss']:.6f} (epoch {checkpoint['epoch']}, 100 images)"
    assert_figure(root / "vis" / f"loss_MNIST_{name}_given2.png")
    assert_figure(root / "vis" / "mnist_completion_2.png")
    [(images, _)] = create_mnist_dataloaders(128, tiny_mnist)[2]
    settings = {key: checkpoint["settings"][key] for key in TABLE[f"MNIST_{name}_given2"].loss_settings}
    with torch.no_grad():
        loss = Losses(**settings, given=2)(model(images), images)[1]["loss"]
    assert loss == pytest.approx(checkpoint["test_loss"], rel=1e-5 if name == "NN" else 0.01)


def test_the_conditional_likelihood_by_both_estimators_and_of_the_network(trained, tiny_mnist):
    root, _ = trained
    flags = ["--given", 2, "--evaluate", "--data-root", tiny_mnist, "--output-root", root]
    estimate, lines = logged(main.main, "--model", "CVAE", *flags)
    found = [re.fullmatch(rf"{NLL}\((.*), 100 samples, 100 images\)", line) for line in lines[2:4]]
    assert [match[2] for match in found] == ["importance sampling", "Monte Carlo from the prior network"]
    assert float(found[0][1]) == pytest.approx(estimate.nll.mean().item(), abs=0.01)
    assert float(found[0][1]) == pytest.approx(float(found[1][1]), rel=0.02)  # of one and the same
    assert lines[4].startswith("Bound: ")
    assert estimate.nll.mean() < (estimate.distortion + estimate.rate).mean()
    checkpoint = best_checkpoint(root, "MNIST_CVAE_given2")
    assert (estimate.distortion + estimate.rate).mean().item() == pytest.approx(checkpoint["test_loss"], rel=0.01)
    [(images, _)] = create_mnist_dataloaders(128, tiny_mnist)[2]
    missing = images[..., ~given_pixels(2)[0]]
    entropy = Bernoulli(missing.double()).entropy().sum(dim=(1, 2)).mean().item()
    assert lines[5].endswith(f"their entropy, {entropy:.2f} nats per image")
    nll, lines = logged(main.main, "--model", "NN", *flags)
    assert re.fullmatch(rf"{NLL}\(one answer, 100 images\)", lines[2])
    assert nll.mean().item() == pytest.approx(best_checkpoint(root, "MNIST_NN_given2")["test_loss"], rel=1e-5)


def test_a_network_whose_likelihood_is_not_finite_is_an_error(copied, tiny_mnist):
    checkpoint = best_checkpoint(copied, "MNIST_NN_given2")
    checkpoint["state_dict"]["encoder.hidden.first.weight"] += 3e38
    save_checkpoint(copied / "models" / "BestModel_MNIST_NN_given2.pth", checkpoint)
    flags = ["--given", 2, "--evaluate", "--data-root", tiny_mnist, "--output-root", copied]
    with pytest.raises(UserError, match="the likelihood is not finite: the weights are damaged"):
        logged(main.main, "--model", "NN", *flags)


def test_importance_sampling_agrees_with_the_exact_integral():
    """With one latent the integral over z is a sum on a fine grid."""
    model, xs = build_completion("CVAE", 16, 1, given=3).double().eval(), torch.rand(3, 1, 28, 28).double()
    args, losses = main.parse_args(["--model", "CVAE", "--given", "3"]), Losses(given=3)
    args.nll_samples = 20_000
    dataset = torch.utils.data.TensorDataset(xs, torch.zeros(3))
    dataset.images = xs
    with torch.no_grad():
        prior, grid = Normal(*model.prior(model.known(xs))), torch.linspace(-8, 8, 4001).double()
        zs = prior.mean + prior.stddev * grid[:, None, None]  # (4001, B, 1)
        log_p = -losses.reconstruction(model.complete(xs, zs), xs) + prior.log_prob(zs)[..., 0]
        exact = -(log_p.logsumexp(dim=0) + (prior.stddev[:, 0] * (grid[1] - grid[0])).log())
    estimate, lines = logged(lambda *_: completion.estimate_completion(args, model, dataset, losses))
    torch.testing.assert_close(estimate.nll, exact, rtol=0, atol=0.08)  # four standard errors
    assert float(re.match(NLL, lines[1])[1]) == pytest.approx(exact.mean().item(), abs=0.05)


def test_the_rows_of_the_picture(trained, tiny_mnist, monkeypatch):
    root, _ = trained
    test_set = create_mnist_dataloaders(128, tiny_mnist)[2].dataset
    models = {name: load_model(f"MNIST_{name}_given2", root)[0] for name in ("NN", "CVAE")}
    rows = completion.complete_rows(models, test_set, 2, seed=0)
    answers = [f"CVAE {number}" for number in range(1, 6)]
    assert list(rows) == ["given", "original", "network", *answers, "2 x standard deviation"]
    assert {row.shape for row in rows.values()} == {(20, 3, 28, 28)}
    mask, originals = given_pixels(2)[0], rows["original"]
    assert torch.equal(originals[:10, :1], test_set[:10][0])
    for label in ("given", "network", *answers):
        assert torch.equal(rows[label][..., mask], originals[..., mask])
    assert not torch.equal(rows["CVAE 1"], rows["CVAE 2"])
    assert not rows["2 x standard deviation"][..., mask].any()
    assert rows["2 x standard deviation"][..., ~mask].any()
    values = iter([0.0, 1.0] * 1000)  # of the answers: as far apart as pixels can be
    monkeypatch.setattr(
        completion,
        "sample_completions",
        lambda model, images, count: torch.stack([torch.full_like(images, next(values)) for _ in range(count)]),
    )
    assert (completion.complete_rows(models, test_set, 2, seed=0)["2 x standard deviation"] == 1).all()
    assert list(completion.complete_rows({}, test_set, 2, seed=0)) == ["given", "original"]


def test_a_model_that_is_missing_or_of_other_images_is_left_out_with_a_note(copied, tiny_mnist, capsys):
    flags = ["--given", 2, "--figures-only", "--data-root", tiny_mnist, "--output-root", copied]
    other_images = {"data": {"fingerprint": "0" * 16}}, {"data": {"name": "x"}}, {"settings": {"binarize": True}}
    for changes in other_images:
        checkpoint = best_checkpoint(copied, "MNIST_NN_given2")
        for entry, change in changes.items():
            checkpoint[entry] = checkpoint[entry] | change
        path = copied / "models" / "BestModel_MNIST_NN_given2.pth"
        before = path.read_bytes()
        save_checkpoint(path, checkpoint)
        logged(main.main, "--model", "CVAE", *flags)
        assert "lacks NN: MNIST_NN_given2 was trained on other images" in capsys.readouterr().err
        path.write_bytes(before)
    logged(main.main, "--model", "CVAE", *flags)
    assert "lacks NN" not in capsys.readouterr().err
    (copied / "models" / "BestModel_MNIST_NN_given2.pth").unlink()
    logged(main.main, "--model", "CVAE", *flags)
    assert "lacks NN: " in (note := capsys.readouterr().err)
    assert "`python main.py --model NN --given 2 --output-root" in note
    assert_figure(copied / "vis" / "mnist_completion_2.png")


def test_resumed_it_is_what_it_would_have_been(trained, tiny_mnist, tmp_path, monkeypatch):
    flags = ["--model", "CVAE", *SIZES, "--given", 2, "--data-root", tiny_mnist, "--output-root", tmp_path]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        logged(main.main, *flags)
    _, log = logged(main.main, *flags, "--resume")
    assert log == trained[1]["CVAE"][1]
    both = (last_checkpoint(root, "MNIST_CVAE_given2") for root in (trained[0], tmp_path))
    assert_same_weights(*(checkpoint["state_dict"] for checkpoint in both))


def test_a_model_of_other_quadrants_is_refused_and_bfloat16_trains(copied, tiny_mnist, tmp_path):
    models = copied / "models"
    shutil.copy(models / "BestModel_MNIST_CVAE_given2.pth", models / "BestModel_MNIST_CVAE_given1.pth")
    with pytest.raises(UserError, match="the best state of MNIST_CVAE_given2, expected .* MNIST_CVAE_given1"):
        load_model("MNIST_CVAE_given1", copied)
    flags = ["--model", "CVAE", *SIZES, "--given", 1, "--amp", "--binarize"]
    history, log = logged(main.main, *flags, "--data-root", tiny_mnist, "--output-root", tmp_path / "amp")
    assert all(math.isfinite(row["train_loss"]) for row in history)
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    assert "binarized" in log[0]
