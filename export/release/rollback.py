"""Makes an earlier champion the champion again.

python -m export rollback --config train/configs/pydocs.toml --to 3 --reason "..."
"""

from export.release import audit_log, lock
from export.release.registry import AliasState, by_version, collection_kept, registry_errors
from protos.errors import GateRefused, MissingStage
from protos.release_records import ReleaseRecord


def rollback(name: str, to: str = "", reason: str = "") -> ReleaseRecord | None:
    """Make an earlier champion the champion again, at once: nothing is compared or downloaded.

    Args:
        to: the version; by default the one that was champion before. A rollback after a rollback goes one
            version further back.
        reason: required for a version that never was champion, because it has passed no gate.

    Returns:
        The record; None if that version is champion already.

    Raises:
        ConfigError: its index is on a Milvus server, and the environment names none.
        MissingStage: there is no champion before this one, or no such version, or its index is on a Milvus
            server and its collection is not there any more.
        GateRefused: the version never was champion, and no reason is given.
        Unavailable: the registry or the Milvus server does not answer, or another release is under way.
    """
    with registry_errors():
        _target(name, to, reason)  # raises before anything is written
        with lock.acquire(name, lock.actor()) as held:
            before, after = _target(name, to, reason)  # again, now that no other process can move the alias
            if before == after:
                return None
            with (
                collection_kept(name, after),
                audit_log.release_run(name, f"back to version {after}") as run_id,
            ):
                return audit_log.commit(held, run_id, "rollback", before, after, reason=reason)


def _target(name: str, to: str, reason: str) -> tuple[str, str]:
    """The champion now, and the version to roll back to."""
    champion = AliasState.of(name).champion
    known = audit_log.read(name)
    if not to:
        versions = audit_log.promoted_versions(known, champion)
        if len(versions) < 2:
            raise MissingStage(f"{name}: there is no champion before this one to go back to")
        try:
            return champion, str(by_version(name, versions[-2]).version)
        except MissingStage as error:
            raise MissingStage(f"{error} any more to go back to; TO=version names another") from None
    after = str(by_version(name, to).version)
    champions = {champion} | {
        version
        for entry, moved in zip(known.entries, known.moved(champion), strict=True)
        for version in (entry.record.before, entry.record.after if moved else "")
    }
    if after not in champions and not reason:
        raise GateRefused(
            f"{name}: version {after} never was champion, so it has passed no gate; "
            'give a reason (REASON="...") to roll back to it anyway'
        )
    return champion, after
