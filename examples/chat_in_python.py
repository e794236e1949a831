"""Talk to a trained model from Python: it thinks, calls your tools, reads results, answers.

    pip install longcat-moe        python chat_in_python.py runs/NAME/fused

It prints a conversation, line by line. Without a folder it makes a small model that was never
trained: what it says is noise, and everything around it can be seen all the same.
"""

import asyncio
import json
import sys
from dataclasses import replace

from longcat_moe import (
    ChatFormat,
    Engine,
    LongcatForCausalLM,
    get_preset,
    load_chat_format,
    train_tokenizer,
)

MEMBERS = {"Ada Berg": "M17"}
FUNCTIONS = {
    "find_member": lambda name: {"member_id": MEMBERS[name]},
    "suspend_member": lambda member_id: {"state": "suspended"},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            },
        },
    }
    for name, argument in (("find_member", "name"), ("suspend_member", "member_id"))
]


def load(folder):
    """A model and how it chats: of a folder, or small and untrained."""
    if folder:
        return LongcatForCausalLM.from_pretrained(folder), load_chat_format(folder)
    chat = ChatFormat(train_tokenizer(["Suspend Ada Berg.", json.dumps(TOOLS)], vocab_size=320))
    return LongcatForCausalLM(replace(get_preset("tiny"), vocab_size=320)), chat


async def talk(model, chat, messages, turns=4):
    """Extend a conversation until the model speaks; no token is computed twice."""
    engine = Engine(model.config, num_slots=1, max_length=1024)
    engine.add_model(0, model)
    conversation = await engine.open(version=0)
    new = chat.start(messages, TOOLS)
    for _ in range(turns):
        said = await engine.generate(conversation, new, max_tokens=48, temperature=0.0)
        message = chat.parse(said.token_ids, TOOLS)
        messages.append(message)
        show(message)
        results = [
            {"role": "tool", "name": call["function"]["name"], "content": answer(call)}
            for call in message.get("tool_calls", ())
        ]
        if not results:
            return
        for result in results:
            show(result)
        messages += results
        new = chat.extend(results)


def answer(call):
    """What a tool says; a wrong call is told, not raised: the model may mend it."""
    function = call["function"]
    try:
        return json.dumps(FUNCTIONS[function["name"]](**json.loads(function["arguments"])))
    except (TypeError, ValueError, KeyError) as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


def show(message):
    if message.get("reasoning_content"):
        print("  thinks:", message["reasoning_content"])
    for call in message.get("tool_calls", ()):
        print("  calls:", call["function"]["name"], call["function"]["arguments"])
    if message.get("content"):
        print(f"  {message['role']}:", message["content"])


if __name__ == "__main__":
    model, chat = load(sys.argv[1] if len(sys.argv) > 1 else "")
    question = {"role": "user", "content": "Suspend Ada Berg."}
    show(question)
    asyncio.run(talk(model, chat, [question]))
