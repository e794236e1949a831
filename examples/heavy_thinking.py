"""Heavy thinking over any async function that answers: K tries, then one look at the K answers.

    pip install longcat-heavythink        python heavy_thinking.py

It prints the attempts and the answer.
"""

import asyncio
import itertools

from longcat_heavythink import HeavyConfig, think

tries = itertools.cycle(["17 * 23 = 391", "17 * 23 = 381", "17 * 23 = 391"])


async def complete(messages, temperature):
    """Stands in for a model: as a summariser it takes the answer that most thinkers gave."""
    text = messages[-1]["content"]
    if "Thinkers Process" not in text:
        return next(tries)
    answers = [line for line in text.splitlines() if line.startswith("17 * 23 =")]
    return max(answers, key=answers.count)


ask = [{"role": "user", "content": "What is 17 * 23?"}]
result = asyncio.run(think(ask, complete, config=HeavyConfig(width=3)))
print("attempts:", result.attempts)
print("answer:", result.answer)
