"""Back to an earlier champion, at once.

python -m export rollback --config train/configs/pydocs.toml --to 3 --reason "..."
"""

from export import lock, trail
from export.moves import Standing, actor, move, recorded
from export.registry import answering, by_version
from protos.errors import GateRefused, MissingStage


def rollback(name: str, to: str = "", reason: str = "") -> trail.Record | None:
    """Make an earlier champion the champion again, at once: nothing is compared or downloaded.

    Args:
        to: the version; if empty, the one that was champion before. A rollback after a rollback goes
            further back.
        reason: why. A version that never was champion has passed no gate, so it takes a reason.

    Returns:
        the move, or None where that version is champion already.

    Raises:
        MissingStage: there is no champion before this one, or no such version.
        GateRefused: the version never was champion, and no reason is given.
        Unavailable: the registry does not answer, or a release is under way.
    """
    with answering():
        _target(name, to, reason)  # before anything is written
        with lock.held(name, actor()) as held:
            before, after = _target(name, to, reason)  # as it is now that nobody else can move it
            if before == after:
                return None
            with recorded(name, f"back to version {after}") as run_id:
                return move(name, held, run_id, "rollback", before, after, reason=reason)


def _target(name: str, to: str, reason: str) -> tuple[str, str]:
    """The champion now, and the version that a rollback would make it."""
    champion = Standing.of(name).champion
    known = trail.read(name)
    if not to:
        standing = trail.standing(known, champion)
        if len(standing) < 2:
            raise MissingStage(f"{name}: there is no champion before this one to go back to")
        try:
            return champion, str(by_version(name, standing[-2]).version)
        except MissingStage as error:
            raise MissingStage(f"{error} any more to go back to; TO=version names another") from None
    after = str(by_version(name, to).version)
    been = {champion} | {
        version
        for entry, moved in zip(known.entries, known.moved(champion), strict=True)
        for version in (entry.record.before, entry.record.after if moved else "")
    }
    if after not in been and not reason:
        raise GateRefused(
            f"{name}: version {after} never was champion, so no gate vouches for it; "
            'give a reason (REASON="...") to go there all the same'
        )
    return champion, after
