"""Document with versions: drafts that are published, one of which is valid and may be signed."""

from __future__ import annotations

from ._arguments import take


def document(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `document(by, owner=..., who=..., working=...)`.

    Args:
        name: The class that has the versions.
        positional: The class of those who publish.
        named: `owner`: the way from the record to its person. `who`: condition on `publisher`.
            `working`: condition under which versions are made. `text`: name of what a version says.
            `sign`: name of the tool by which the person agrees to the valid version. `restore`:
            name of the tool that makes an older version valid again, or `none`.
    """
    a = take(positional, named, first=("by",), rest={
        "owner": "-", "who": "-", "working": "-", "text": "wording", "sign": "sign",
        "restore": "return_to",
    })  # fmt: skip
    version, text, words = f"{name}_version", a["text"], name.replace("_", " ")
    owner = f"owner(record.{a['owner']})" if a["owner"] != "-" else "pass"
    working = f'assert ({a["working"]}), "this {words} is not worked on now"'
    working = working if a["working"] != "-" else "pass"
    who = f'assert ({a["who"].replace("publisher", "by")}), "only who may publish does so"'
    restore = "_restore" if a["restore"] == "none" else a["restore"]
    return f"""
class {name}:
    valid_version: int = 0
    signed_version: int = 0
    fixed(valid_version, signed_version)
    num_versions = count(v for v in {version} if v.record == self)
    num_drafts = count(v for v in {version} if v.record == self and v.state == drafted)
    never(valid_version > 0 and not exists(v for v in {version}
          if v.record == self and v.number == valid_version and v.state == published),
          "the valid version of a {words} is a published one")

    def revise({text}: text):
        {working}
        assert num_drafts == 0, "one draft is published or dropped before the next is made"
        new({version}, record=self, number=num_versions + 1, {text}={text}, day=today)

    def {restore}(version: {version}):
        {working}
        assert version.record == self, "a {words} returns to a version of its own"
        assert version.state == published, "only a published version is valid"
        assert version.number != valid_version, "that version is valid already"
        valid_version = version.number

    def {a["sign"]}():
        {working}
        assert valid_version > 0, "nothing is signed before a version is published"
        assert num_drafts == 0, "nothing is signed while a draft is open"
        assert signed_version != valid_version, "the valid version is signed already"
        signed_version = valid_version

class {version}(made_by_tools):
    {owner}
    record: {name}
    number: int
    {text}: text
    day: date
    published_by: optional({a["by"]}) = none
    fixed(number, {text}, day)
    states(drafted, published, dropped)
    inside(publish)
    drop = drafted > dropped

    def rewrite({text}_new: text):
        assert state == drafted, "only a draft is rewritten"
        assert {text}_new != {text}, "the draft says that already"
        {text} = {text}_new

    def publish(by: {a["by"]}):
        drafted > published
        {who if a["who"] != "-" else "pass"}
        published_by = by
        record.valid_version = number
"""
