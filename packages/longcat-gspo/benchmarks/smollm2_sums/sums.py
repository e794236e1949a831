import re


def score(task, answer):
    """1 for the sum and nothing else; less the more is said, and little for a wrong number."""
    words = answer.split()
    if not words:
        return 0.0
    if answer.strip().rstrip(".") == task["answer"]:
        return 1.0
    is_right = task["answer"] in re.findall(r"\d+", answer)
    is_number = bool(re.search(r"\d", answer))
    return (0.6 * is_right + 0.2 * is_number) / len(words)
