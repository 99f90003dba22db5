"""The words that participants read, in their language.

A language is a text file `languages/CODE.toml` and a consent `consent.CODE.md` in the study's folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from koala.config.study import Question
from koala.core.errors import UserError
from koala.core.readers import read_toml

PAGE_FOLDER = Path(__file__).parent / "page"
"""Where the templates, the style, the script and the words of all pages lie."""


@dataclass(frozen=True)
class QuestionWords:
    """A question's words.

    Attributes:
        text: the question.
        choices: words of each choice, by its name.
    """

    text: str
    choices: Mapping[str, str]


@dataclass(frozen=True)
class Language:
    """A language's words.

    Attributes:
        code: such as "en".
        name: what it calls itself.
        text: words by name, with `{fields}` in them.
        questions: by name.
        consent: what participants agree to, in HTML.
    """

    code: str
    name: str
    text: Mapping[str, str]
    questions: Mapping[str, QuestionWords]
    consent: str

    def say(self, name: str, **fields: object) -> str:
        """Words, with their fields filled in."""
        return self.text[name].format(**fields)


def load_languages(folder: Path, questions: Sequence[Question]) -> dict[str, Language]:
    """Read all languages of a study.

    Args:
        folder: of the study.
        questions: that must have words.

    Raises:
        UserError: a file is absent or lacks words.
    """
    needed = read_toml(PAGE_FOLDER / "en.toml")["text"]  # every language must have these words
    files = sorted((folder / "languages").glob("*.toml"))
    if not files:
        raise UserError(f"{folder / 'languages'} holds no language; copy en.toml there from another study")
    return {path.stem: _load(path, needed, questions) for path in files}


def negotiate_language(wanted: str, available: Sequence[str], default: str) -> str:
    """The first language of an Accept-Language header that there is.

    Args:
        wanted: the header, such as "nl-BE,nl;q=0.9,en;q=0.5".
        available: codes.
        default: for those who want none of these.
    """
    ranked = []
    for place, part in enumerate(wanted[:200].split(",")):
        code, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((-float(quality or 1), place, code.strip().lower()))
        except ValueError:
            continue
    for _, _, code in sorted(ranked):
        for known in (code, code.partition("-")[0]):
            if known in available:
                return known
    return default if default in available else available[0]


def _load(path: Path, needed: Mapping[str, str], questions: Sequence[Question]) -> Language:
    read = read_toml(path)
    text = read.get("text", {})
    for name, english in needed.items():
        words = text.get(name)
        if not isinstance(words, str):
            raise UserError(f'{path} lacks the words text.{name}; in English they are "{english}"')
        if not _fields(words) <= _fields(english):
            raise UserError(f'{path}: text.{name} has other fields in braces than the English "{english}"')
    return Language(
        path.stem,
        str(read.get("name", path.stem)),
        text,
        {question.name: _question(path, read, question) for question in questions},
        _consent(path.parents[1] / f"consent.{path.stem}.md"),
    )


def _question(path: Path, read: Mapping, question: Question) -> QuestionWords:
    words = read.get("questions", {}).get(question.name, {})
    text, choices = words.get("text"), words.get("choices", {})
    absent = [choice for choice in question.choices if choice not in choices]
    if not text or absent:
        what = f"questions.{question.name}" + (f".choices.{absent[0]}" if text else "")
        raise UserError(f"{path} lacks the words {what}, which study.toml asks for; add them")
    return QuestionWords(text, choices)


def _consent(path: Path) -> str:
    """Markdown as HTML; HTML in it is shown as it is written."""
    from markdown_it import MarkdownIt

    try:
        return MarkdownIt("commonmark", {"html": False}).render(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is absent; write there what participants agree to, in Markdown") from None


def _fields(words: str) -> set[str]:
    try:
        return {name for _, name, _, _ in Formatter().parse(words) if name is not None}
    except ValueError:
        return {"a brace without its fellow"}
