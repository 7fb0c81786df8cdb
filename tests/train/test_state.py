"""The state of a script comes back as it was saved, whatever the live objects hold at the load."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from rank_server import RankServer

torch = pytest.importorskip("torch", reason="sovctl.train needs torch: pip install sovctl[train]")

from sovctl.checkpoint.complete import judge  # noqa: E402
from sovctl.train import Checkpointer, RunContext, whole  # noqa: E402

pytestmark = pytest.mark.train

SCENARIOS = Path(__file__).with_name("scenarios.py")


class Stateful:
    """A stateful object of a user that keeps whatever it is given."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def state_dict(self) -> Any:
        return self.content

    def load_state_dict(self, state: Any) -> None:
        self.content = state


def _save(directory: Path, **parts: Any) -> None:
    assert Checkpointer(RunContext(checkpoint_dir=directory), background=False).save(1, **parts)


def _load(directory: Path, **parts: Any) -> None:
    context = RunContext(checkpoint_dir=directory, resume_from=directory / "step-1")
    assert Checkpointer(context).load(**parts) == 1


@pytest.mark.parametrize(
    ("saved", "live"),
    [
        pytest.param({"cursor": {"shard-003": 1200}}, {"cursor": {}}, id="keys that are not there yet"),
        pytest.param({"done": {0: 50, 1: 60}}, {"done": {0: 0, 1: 0}}, id="numbers as keys"),
        pytest.param({"a": 1}, {"a": 0, "of the new object": 2}, id="keys that were not there"),
        pytest.param({"window": [1, 2, 3], "pair": (1, [2])}, {"window": [], "pair": ()}, id="lists that grew"),
        pytest.param(OrderedDict(b=1, a={2: None}), OrderedDict(), id="an order"),
        pytest.param({}, {"a": 1}, id="nothing"),
        pytest.param([1, {"a": 2}], [], id="no dict"),
    ],
)
def test_what_was_saved_comes_back(tmp_path: Path, saved: Any, live: Any) -> None:
    _save(tmp_path, state={"object": Stateful(saved), "plain": saved}, rank_state={"own": Stateful(saved)})
    shared, own = Stateful(live), Stateful(live)
    plain: Any = type(live)()
    _load(tmp_path, state={"object": shared, "plain": plain}, rank_state={"own": own})
    for found in (shared.content, plain, own.content):
        assert found == saved
        assert type(found) is type(saved)


def test_tensors_come_back_wherever_they_are(tmp_path: Path) -> None:
    one = torch.arange(3.0)
    saved = {"losses": [torch.tensor(1.0), torch.tensor(2.0)], 7: {"twice": (one, one)}, "none": torch.zeros(0, 4)}
    _save(tmp_path, state={"window": saved, "object": Stateful(saved)})
    window: Any = {"losses": [torch.tensor(0.0)]}
    object_ = Stateful({})
    _load(tmp_path, state={"window": window, "object": object_})
    for found in (window, object_.content):
        assert [loss.item() for loss in found["losses"]] == [1.0, 2.0]
        assert found[7]["twice"][0].tolist() == [0.0, 1.0, 2.0]
        assert found[7]["twice"][0] is found[7]["twice"][1]
        assert found["none"].shape == (0, 4)


def test_kinds_that_torch_does_not_write_by_itself_come_back(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    _save(tmp_path, state={"odd": {"sparse": sparse, "weight": torch.nn.Parameter(torch.ones(2))}})
    odd: dict[str, Any] = {}
    _load(tmp_path, state={"odd": odd})
    assert odd["sparse"].to_dense().tolist() == torch.eye(3).tolist()
    assert odd["weight"].tolist() == [1.0, 1.0]


def test_tensors_and_dicts_that_others_hold_too_are_changed_in_place(tmp_path: Path) -> None:
    average = torch.nn.Linear(2, 2)
    saved = {name: torch.full_like(value, 5.0) for name, value in average.state_dict().items()}
    _save(tmp_path, state={"average": saved, "counts": {"inner": {"a": 1}, "seen": [1, 2, 3]}})
    inner, seen = {"b": 2}, [9]
    _load(tmp_path, state={"average": average.state_dict(), "counts": {"inner": inner, "seen": seen}})
    assert all((parameter == 5.0).all() for parameter in average.parameters())
    assert (inner, seen) == ({"a": 1}, [1, 2, 3])


def test_tensors_are_copied_and_spread_over_the_ranks_as_those_of_a_model(tmp_path: Path) -> None:
    tree = whole.take_apart("state.average", {"weights": [torch.ones(10_000)], "step": 3})
    assert [torch.is_tensor(value) for value in tree.values()] == [False, True]
    assert len(tree["state.average:whole"]) < 1000


def test_a_checkpoint_of_before_is_loaded_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {"a": {"b": 1}, "values": torch.ones(2)}
    with monkeypatch.context() as before:
        before.setattr(whole, "take_apart", lambda key, state: {key: state})
        _save(tmp_path, state={"plain": saved, "object": Stateful(saved)}, rank_state={"own": Stateful({"n": 4})})
    values = torch.zeros(2)
    plain, object_, own = {"a": {"b": 0}, "values": values}, Stateful({"a": {"b": 0}}), Stateful({"n": 0})
    _load(tmp_path, state={"plain": plain, "object": object_}, rank_state={"own": own})
    assert (plain["a"], values.tolist(), object_.content, own.content) == (
        {"b": 1},
        [1.0, 1.0],
        {"a": {"b": 1}},
        {"n": 4},
    )


def test_a_whole_state_does_not_keep_a_checkpoint_from_being_complete(tmp_path: Path) -> None:
    _save(tmp_path, state={"object": Stateful({0: torch.ones(1)})})
    assert judge(tmp_path / "step-1", 1, deep=True).why == ""


@pytest.mark.parametrize(("before", "after"), [("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")])
def test_an_average_of_a_sharded_model_comes_back_on_another_sharding(
    ranks: RankServer, tmp_path: Path, before: str, after: str
) -> None:
    log = tmp_path / "log"
    ranks.call(SCENARIOS, "an_average_of_the_weights", 2, log, kind=before)
    resume = {"SOVCTL_RESUME_FROM": str(tmp_path / "checkpoints" / "step-1"), "SOVCTL_ATTEMPT": "1"}
    ranks.call(SCENARIOS, "an_average_of_the_weights", 2, log, kind=after, load=True, environment=resume)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_on_at_the_next_batch(tmp_path: Path, workers: int) -> None:
    if importlib.util.find_spec("torchdata") is None:
        pytest.skip("torchdata is not installed")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> Any:
        return StatefulDataLoader(torch.arange(100), batch_size=2, num_workers=workers)

    first = loader()
    batches = iter(first)
    for _ in range(8):
        next(batches)
    _save(tmp_path, rank_state={"loader": first})
    again = loader()
    _load(tmp_path, rank_state={"loader": again})
    assert next(iter(again)).tolist() == next(batches).tolist()
