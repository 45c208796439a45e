"""What can be known to be wrong with a stage before anything trains."""

from collections.abc import Collection

import torch
from torch import nn

from evaluation.measures import Measures
from lightning_modules.init_from import read_weights
from lightning_modules.parts import Parts, applied, modules_of, parameters_of, reached
from lightning_modules.stages import Stage
from lightning_modules.updates import Update, log_names
from losses.objective import Objective
from losses.schedules import value_at
from models.subject import Subject


def check_stage(
    system: Parts, stage: Stage, ready: Collection[str], touched: Collection[nn.Parameter]
) -> None:
    """Hold a stage against the parts it works on.

    Args:
        system: all parts.
        stage: whose subject, updates, settings and beginnings are looked at.
        ready: tasks that are trained by the end of the stage, or came trained.
        touched: weights that were trained or loaded by then: nothing is learned from, or through, what is random.

    Raises:
        ValueError: the first thing that is wrong: what, where, and what to do.
    """
    subject = _subject(system, stage.trains)
    own = set(subject.parameters())
    if own and not subject.trained and not own & set(touched):
        raise ValueError(
            f"the {stage.trains} is frozen, and nothing trained it before: its weights are random. Put a stage "
            f"before this one that trains it, or give init_from={{{stage.trains}: CHECKPOINT}}"
        )
    for path, inside in subject.named_modules():
        # A proxy, say: through it, everything else in the subject learns.
        inner = set(inside.parameters()) if path and isinstance(inside, Subject) else set()
        if inner and not inside.trained and not inner & set(touched):
            raise ValueError(
                f"{stage.trains}.{path} is frozen, and nothing trained it before: its weights are random. Put a stage "
                "before this one that trains it, or load it by init_from"
            )
    taken: dict[str, set[nn.Parameter]] = {}
    for name, update in stage.updates.items():
        moving = parameters_of(system, update.trainable)
        if not moving:
            raise ValueError("the stage trains nothing: name at least one part in `trainable`")
        _check_optimiser(system, update)
        _check_tasks(system, stage, update.objective, subject, moving, ready)
        _check_terms(system, stage, update.objective, subject, touched)
        _check_reach(system, stage, update, subject, moving)
        _check_rate(stage, update, subject, moving)
        for other, parameters in taken.items():
            if parameters & moving and not (update.shares or stage.updates[other].shares):
                raise ValueError(
                    f"the updates {other!r} and {name!r} train the same weights: take them out of one's "
                    "`trainable`, or say that it is meant by shares=true"
                )
        taken[name] = moving
    _check_names(system, stage, subject)
    with applied(system.codec, stage.settings):
        pass
    for part, source in stage.init_from.items():
        read_weights(system, part, source)


def _subject(system: Parts, path: str) -> Subject:
    (module, *others) = modules_of(system, path)
    if others or not isinstance(module, Subject):
        known = sorted(name for name, inside in system.named_modules() if isinstance(inside, Subject))
        raise ValueError(
            f"trains={path} cannot be trained by itself: it answers no batch (models/subject.py); there are {known}"
        )
    return module


def _check_optimiser(system: Parts, update: Update) -> None:
    parameters_of(system, update.lr_scales)
    try:
        update.optimiser([{"params": [nn.Parameter(torch.zeros(1))]}])
    except (ValueError, TypeError) as error:
        raise ValueError(f"optimiser: {error}") from error


def _check_tasks(
    system: Parts,
    stage: Stage,
    objective: Objective,
    subject: Subject,
    moving: set[nn.Parameter],
    ready: Collection[str],
) -> None:
    if unknown := set(objective.tasks) - set(system.tasks):
        raise ValueError(f"its objective names the tasks {sorted(unknown)}; there are {sorted(system.tasks)}")
    if early := sorted(set(objective.tasks) - set(ready)):
        raise ValueError(f"its objective names the tasks {early}, which train only in a later stage")
    for name in objective.tasks:
        reads = system.tasks[name].reads
        if not subject.serves(reads, system.codec):
            raise ValueError(
                f"its objective names the task {name!r}, which reads {list(reads)}: {stage.trains} does not give "
                f"that as the codec does; it gives {sorted(subject.readable)}"
            )
    for name, task in system.tasks.items():
        if name not in objective.tasks and any(p in moving for p in task.parameters()):
            raise ValueError(f"it trains task {name!r}, which has no weight in its objective")


def _check_terms(
    system: Parts,
    stage: Stage,
    objective: Objective,
    subject: Subject,
    touched: Collection[nn.Parameter],
) -> None:
    given = {*subject.gives, *subject.readable}
    for name, term in objective.named_terms():
        if lacking := sorted(set(term.reads) - given):
            raise ValueError(
                f"its objective's {name} reads {lacking}, which {stage.trains} does not give; it gives "
                f"{sorted(given)}"
            )
        for path in term.uses:
            if len(modules_of(system, path)) != 1:
                raise ValueError(f"{name} uses {path}, which is several modules: name them one by one")
            if _is_random(system, path, touched):
                raise ValueError(
                    f"{name} uses {path}, which nothing trained before: its weights are random. Train it, load it by "
                    "init_from, or wrap what is fixed in models.frozen.Frozen"
                )
    bpp = torch.ones(1) if "bits" in subject.gives else None
    for name, scalar in objective.scalars.items():
        try:
            with torch.no_grad():  # where nothing is learned
                value_at(scalar, 0.0, subject.rates[0] if subject.rates else None, bpp)
        except ValueError as error:
            raise ValueError(f"its objective's {name}: {error}") from error


def _check_reach(
    system: Parts, stage: Stage, update: Update, subject: Subject, moving: set[nn.Parameter]
) -> None:
    """Everything that moves gets a gradient."""
    own, objective = set(subject.parameters()), update.objective
    tasks = {p for task in system.tasks.values() for p in task.parameters()}
    used = reached(system, [path for _, term in objective.named_terms() for path in term.uses])
    if moving - own - tasks - used:
        raise ValueError(
            f"it trains {list(update.trainable)}, but neither {stage.trains} nor its objective's terms and tasks "
            "hold all of that: some of it would get no gradient"
        )


def _check_rate(stage: Stage, update: Update, subject: Subject, moving: set[nn.Parameter]) -> None:
    """What the bits depend on pays for them, in this update or in another of the stage."""
    free = {p for name in subject.decoder for p in subject.get_submodule(name).parameters()}
    paid = any(other.objective.rate is not None for other in stage.updates.values())
    costs = "bits" in subject.gives and moving & set(subject.parameters()) - free
    if costs and not paid and not update.free:
        raise ValueError(
            f"it trains the {stage.trains}, but its objective has no rate: bits would be free. Where that is meant, "
            "say free=true in the update"
        )


def _check_names(system: Parts, stage: Stage, subject: Subject) -> None:
    """No two values share a name in the logs, and what the monitor names is there."""
    shown = [name for names in log_names(stage.updates).values() for name in names.values()]
    measured = {*Measures.names} - {"loss"}
    for name in shown:
        if name in measured or shown.count(name) > 1:
            raise ValueError(f"two values would be logged as {name!r}: call the term or the update otherwise")
    known = {*shown, *Measures.names}
    for name, task in system.tasks.items():
        if subject.serves(task.reads, system.codec):
            known |= {f"{name}/{key}" for key in task.metrics()}
    if stage.monitor is not None and stage.monitor not in known:
        raise ValueError(
            f"monitor={stage.monitor!r} is not measured in this stage; there are {sorted(known)}"
        )


def _is_random(system: Parts, path: str, touched: Collection[nn.Parameter]) -> bool:
    """Whether a part has weights that nobody trained or loaded; a task that no stage trains came trained."""
    own = reached(system, [path])
    parents = (system.get_submodule(path[:end]) for end in (*_dots(path), len(path)))
    made_so = any(isinstance(module, Subject) and module.trained for module in parents)
    return bool(own) and not own & set(touched) and not made_so and not path.startswith("tasks.")


def _dots(path: str) -> list[int]:
    return [position for position, letter in enumerate(path) if letter == "."]
