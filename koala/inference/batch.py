"""`koala colorize`: photos and folders of photos."""

from collections import Counter

from koala.config.inference import ColorizeSettings
from koala.inference.jobs import Outcome, plan_jobs

_WORDS: dict[Outcome, str] = {
    "in colour": "in colour already and copied (--recolor --overwrite gives them new colours)",
    "there": "there already (--overwrite colours them again)",
    "failed": "could not be read",
}


def colorize_command(settings: ColorizeSettings) -> int:
    """Colour files and folders of files; what is there already is left alone.

    Returns:
        0 when all were coloured, 1 when some could not be read: each of these is named.

    Raises:
        UserError: there is nothing to colour, no model, or a photo would be written over.
    """
    plan = plan_jobs(settings)
    again = settings.overwrite or settings.hints is not None
    todo = plan.jobs if again else [job for job in plan.jobs if not job.is_done()]
    counts: Counter[Outcome] = Counter({"there": len(plan.jobs) - len(todo)})
    if todo:
        from koala.inference.workers import colorize_photos  # torch is not needed to say that nothing is to be done

        counts += colorize_photos(todo, settings)
    told = [f"{counts['coloured']} coloured", *(f"{counts[key]} {text}" for key, text in _WORDS.items() if counts[key])]
    print(f"{settings.out}: {', '.join(filter(None, [*told, *plan.notes()]))}")
    return 1 if counts["failed"] else 0
