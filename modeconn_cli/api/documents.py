"""Per-sample scores and distances as Python functions, under the names and keywords of the documents.

Scores are NumPy arrays, one value per sample in the order of the loader; distances are NumPy scalars. Importing this
package imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from modeconn_cli.api.words import check_ranges, spoken

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, device, nn

    from modeconn_cli.engine.commands.l2.python_networks import Data, PythonNetwork
    from modeconn_cli.engine.networks.activations.layers import LayerDormancy
    from modeconn_cli.engine.networks.distances import FunctionalDistance

__all__ = [
    "Curvatures",
    "Dormancies",
    "calculate_l2_distance",
    "compute_csl",
    "compute_curvature_per_image",
    "compute_learning_time_from_grads",
    "compute_per_sample_dormant",
    "cosine_similarity_distance",
    "euclidean_distance",
    "functional_distance",
    "weighted_euclidean_distance",
]


@dataclass(frozen=True)
class Curvatures:
    """The curvatures of N samples, float64 [N] each. It unpacks into `curvature, directional_eig, labels`.

    `curvature` and `directional_eig` are in the document's units (mean ‖g‖ and mean v·g with v = h·s); `hvp_norm`
    (‖Hs‖), `trace` with its standard error and `trace_of_square` (Tr H², the mean of ‖Hs‖²) are in the true scale.
    `rounded` bool [N]: the difference was within rounding of zero. `ids_are_positions`: the loader gave no ids.
    """

    curvature: np.ndarray
    directional_eig: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    ids_are_positions: bool
    hvp_norm: np.ndarray
    trace: np.ndarray
    trace_stderr: np.ndarray
    trace_of_square: np.ndarray
    rounded: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.curvature, self.directional_eig, self.labels))


@dataclass(frozen=True)
class Dormancies:
    """The dormant shares of N samples. It unpacks into `dormant_props, sample_ids, labels`.

    `dormant_props` float64 [N]: share of units whose convolution or linear output never exceeds 1e-6, as documented;
    `dormant_post` [N]: the same after each nonlinearity, of absolute values, None where there is none. `layers` has
    the shares of every layer's units. `ids_are_positions`: the loader gave no ids.
    """

    dormant_props: np.ndarray
    sample_ids: np.ndarray
    labels: np.ndarray
    dormant_post: np.ndarray | None
    layers: list[LayerDormancy]
    ids_are_positions: bool

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.dormant_props, self.sample_ids, self.labels))


@spoken()
def compute_curvature_per_image(
    net: nn.Module,
    data_loader: Iterable[Any],
    h: float = 1e-3,
    niter: int = 10,
    temp: float = 1.0,
    save_dir: str | Path | None = None,
    *,
    seed: int = 0,
    method: Literal["fd", "hvp"] = "fd",
) -> Curvatures:
    """Curvature of every sample's own loss around its input (Garg et al. 2024, arXiv:2307.05831).

    `net` maps images [N, …] to logits [N, C]; its modes and gradients stay as they are. `data_loader` gives
    (images, labels) or (images, labels, ids), labels as integers or one-hot. `h` is the step in units of the images,
    `niter` the number of ±1 directions, which depend on seed and id alone, `temp` divides the logits. With
    `method="hvp"` exact Hessian-vector products take the place of differences. `save_dir`: the documented files.

    Raises SettingsError for numbers out of range, InputError for a loader or a network that cannot be scored.
    """
    import torch

    from modeconn_cli.engine.samples.loaders import Loaded, check, check_labels, evaluating
    from modeconn_cli.engine.samples.per_sample.curvature import measure
    from modeconn_cli.engine.samples.per_sample.execution import Execution
    from modeconn_cli.engine.settings.curvature import CurvatureSettings

    check_ranges(CurvatureSettings, h=h, niter=niter, temp=temp, method=method, seed=seed)
    found = []
    with evaluating(net) as place:
        loaded, execution, classes = Loaded(data_loader, place), None, 0
        for batch in loaded:
            if execution is None:
                classes = check(net, batch)
                execution = Execution(net, tuple(batch.images.shape[1:]))
            check_labels(batch.labels, classes)
            how: dict[str, Any] = {"h": h, "draws": niter, "temperature": temp, "seed": seed}
            found.append(measure(execution, batch.images, batch.labels, batch.ids, method=method, **how))
    columns = (
        "curvature",
        "directional_eig",
        "hvp_norm",
        "trace",
        "trace_stderr",
        "trace_of_square",
        "rounded",
    )
    result = Curvatures(
        labels=loaded.labels,
        ids=loaded.ids,
        ids_are_positions=loaded.positions,
        **{name: torch.cat([getattr(part, name) for part in found]).cpu().numpy() for name in columns},
    )
    if save_dir is not None:
        _save_curvatures(result, Path(save_dir))
    return result


def _save_curvatures(result: Curvatures, folder: Path) -> None:
    """The documented files; without sample_ids.npy where positions stand for the ids.

    Raises OutputError where the folder's sample_ids.npy names other samples.
    """
    import numpy as np

    from modeconn_cli.engine.commands.curvature import DOCUMENTED, IDS, LABELS
    from modeconn_cli.engine.errors import OutputError
    from modeconn_cli.engine.results import arrays, files

    ids = folder / IDS
    if ids.exists() and (result.ids_are_positions or not np.array_equal(arrays.read_ids(ids), result.ids)):
        raise OutputError(f"'{ids}' names other samples than the loader", "use another save_dir")
    for name, file in DOCUMENTED.items():
        files.write_array(folder / file, getattr(result, name).astype("float32"))
    files.write_array(folder / LABELS, result.labels)
    if not result.ids_are_positions:
        files.write_array(ids, result.ids)


@spoken()
def compute_per_sample_dormant(
    net: nn.Module,
    data_loader: Iterable[Any],
    device: str | device | None = None,
    dormant_unit_threshold: float = 0.01,
    *,
    eps: float = 1e-6,
    tau: float = 0.1,
    note: Callable[[str], None] = lambda _: None,
) -> Dormancies:
    """Share of units that every sample leaves inactive, at the documented sites and after each nonlinearity.

    `net` and `data_loader` as in `compute_curvature_per_image`; `device` moves the network there first. A value up
    to `eps` counts as zero. `dormant_unit_threshold` and `tau` define the frequency-dormant (Dohare et al. 2024) and
    tau-dormant (Sokar et al. 2023) units of `layers`; the samples' shares do not depend on them. `note` hears what
    is special about the network.

    Raises SettingsError for numbers out of range, InputError for a loader or a network that cannot be scored.
    """
    import torch

    from modeconn_cli.engine.networks.activations.layers import dormancies
    from modeconn_cli.engine.networks.activations.observe import Activity, Observer, observer
    from modeconn_cli.engine.samples.loaders import Loaded, check, evaluating
    from modeconn_cli.engine.settings.dormant import DormantSettings

    check_ranges(DormantSettings, eps=eps, tau=tau, dormant_unit_threshold=dormant_unit_threshold)
    if device is not None:
        net.to(device)
    found: list[Activity] = []
    sums: dict[str, Tensor] = {}
    observe: Observer | None = None
    with evaluating(net) as place:
        loaded = Loaded(data_loader, place)
        for batch in loaded:
            if observe is None:
                check(net, batch)
                observe = observer(net, batch.images[:2], eps=eps, note=note)
            seen = observe(batch.images)
            found.append(seen)
            for name in ("dormant", "total", "active"):
                sums[name] = sums[name] + getattr(seen, name) if name in sums else getattr(seen, name)
    assert observe is not None
    pre = [part.pre for part in found if part.pre is not None]
    post = [part.post for part in found if part.post is not None]
    return Dormancies(
        dormant_props=torch.cat(pre).cpu().numpy(),
        sample_ids=loaded.ids,
        labels=loaded.labels,
        dormant_post=torch.cat(post).cpu().numpy() if post else None,
        layers=dormancies(
            observe.layers,
            {name: value.cpu().numpy() for name, value in sums.items()},
            len(loaded.ids),
            tau=tau,
            threshold=dormant_unit_threshold,
        ),
        ids_are_positions=loaded.positions,
    )


@spoken()
def compute_csl(losses: np.ndarray) -> np.ndarray:
    """Cumulative sample loss, float64 [N]: the sum of losses [E, N] over epochs, exact in float64.

    NaN stays NaN. Raises InputError for other shapes.
    """
    from modeconn_cli.engine.samples.losses import cumulative_loss

    values = _epochs_by_samples(losses)
    return cumulative_loss(values, values.shape[1])[0]


@spoken()
def compute_learning_time_from_grads(loss_grads: np.ndarray) -> tuple[np.ndarray, float]:
    """Learning time, float64 [N], and τ, from gradient norms [E, N].

    cond_k is the running mean of a sample's norms, τ the mean of cond over epochs and samples; learning time is
    1 − the share of epochs with cond < τ. Samples with NaN have none and do not count for τ. Raises InputError for
    other shapes.
    """
    from modeconn_cli.engine.samples.losses import learning_time

    values = _epochs_by_samples(loss_grads)
    found = learning_time(lambda: values, range(len(values)), values.shape[1]).plain
    return found.lt, found.tau


@spoken()
def calculate_l2_distance(original: PythonNetwork, modified: PythonNetwork) -> dict[str, Any]:
    """Distances between the parameters of two networks: `total_l2`, `normalized_total_l2` (by √P), `relative_total`
    (by the norm of `original`, None where that is 0), `total_params` P, and `layer_distances`: tensor name ->
    `raw_l2`, `normalized_l2`, `relative_distance`, `n_params`.

    Networks are modules, state dicts or paths of checkpoints; files are read tensor by tensor. Sums are taken in
    float64; buffers do not count. Raises InputError for networks that are not alike, and for NaN or infinity.
    """
    import numpy as np

    from modeconn_cli.engine.commands.l2.python_networks import distance

    found = distance(original, modified)
    return {
        "total_l2": np.float64(found.total_l2),
        "normalized_total_l2": np.float64(found.normalized_total_l2),
        "relative_total": None if found.relative_total is None else np.float64(found.relative_total),
        "total_params": found.total_params,
        "layer_distances": {layer.layer_name: layer.figures() for layer in found.layers},
    }


@spoken()
def euclidean_distance(model_a: PythonNetwork, model_b: PythonNetwork) -> np.float64:
    """‖a − b‖₂ over all parameters. Networks and errors as in `calculate_l2_distance`."""
    import numpy as np

    from modeconn_cli.engine.commands.l2.python_networks import distance

    return np.float64(distance(model_a, model_b).total_l2)


@spoken()
def cosine_similarity_distance(model_a: PythonNetwork, model_b: PythonNetwork) -> np.float64:
    """1 − ⟨a, b⟩ / (‖a‖‖b‖) over all parameters, within [0, 2]; NaN for a network of zeros.

    Networks and errors as in `calculate_l2_distance`.
    """
    import numpy as np

    from modeconn_cli.engine.commands.l2.python_networks import distance

    found = distance(model_a, model_b).cosine_distance
    return np.float64(np.nan if found is None else found)


@overload
def weighted_euclidean_distance(
    model_a: PythonNetwork,
    model_b: PythonNetwork,
    input_data: Data,
    *,
    kind: Literal["true", "empirical"] = "true",
    seed: int = 0,
    with_stderr: Literal[False] = False,
) -> np.float64: ...


@overload
def weighted_euclidean_distance(
    model_a: PythonNetwork,
    model_b: PythonNetwork,
    input_data: Data,
    *,
    kind: Literal["true", "empirical"] = "true",
    seed: int = 0,
    with_stderr: Literal[True],
) -> tuple[np.float64, np.float64]: ...


@spoken()
def weighted_euclidean_distance(
    model_a: PythonNetwork,
    model_b: PythonNetwork,
    input_data: Data,
    *,
    kind: Literal["true", "empirical"] = "true",
    seed: int = 0,
    with_stderr: bool = False,
) -> np.float64 | tuple[np.float64, np.float64]:
    """The Fisher distance √Σ F (a − b)²: F is the mean of both networks' diagonal Fisher information on the data.

    `input_data`: inputs [N, …], or a loader of (inputs, labels) or (inputs, labels, ids). The outputs [N, C] are
    logits. With `kind="true"` the expectation over the network's own labels is summed exactly; of more than 100
    classes one label per sample is drawn, by `seed` and id. `empirical` takes the loader's labels. (The document's
    weights, gradients of a network's error against itself, are always zero.)

    `with_stderr` gives the distance and its standard error, which is judged from blocks of the samples and NaN where
    they do not say: of one sample, or where the distance is 0.

    One of two state dicts has to be a module, or the checkpoint of mcx. Modes and gradients stay as they are.
    """
    import numpy as np

    from modeconn_cli.engine.commands.l2.python_networks import weighted

    distance, stderr = weighted(model_a, model_b, input_data, kind, seed)
    return (np.float64(distance), np.float64(stderr)) if with_stderr else np.float64(distance)


@spoken()
def functional_distance(
    model_a: PythonNetwork, model_b: PythonNetwork, input_data: Data
) -> FunctionalDistance:
    """How far apart the answers are on the same inputs: `disagreement` (share of other arg-max), `kl` (mean
    KL(p_a‖p_b) in nats), `logit_distance` (mean ‖logits_a − logits_b‖), `samples`, and standard errors
    `disagreement_stderr`, `kl_stderr`, `logit_distance_stderr`.

    The errors are NaN where one sample, or equal values of all, do not say; where all samples agree or none does, that
    of the disagreement is the end of Wilson's interval at one standard error, 1/(samples + 1).

    Networks and data as in `weighted_euclidean_distance`; logits [N, C].
    """
    from modeconn_cli.engine.commands.l2.python_networks import in_function

    return in_function(model_a, model_b, input_data)


def _epochs_by_samples(values: np.ndarray) -> np.ndarray:
    """Raises InputError for anything but numbers [E, N] with at least one epoch."""
    import numpy as np

    from modeconn_cli.engine.errors import InputError

    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or len(array) == 0:
        raise InputError(f"expected numbers [epochs, samples], got {array.dtype} {array.shape}")
    return array
