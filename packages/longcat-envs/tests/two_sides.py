"""A set of two sides of our own, and fake wheels in the forms of tau2's telecom and banking."""

import copy
import json
import re

from longcat_envs.loaders import SidesSet, Way


def text(name, **parameters):
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    whole = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": name, "parameters": whole},
    }


class Office:
    """The agent's side of a set of two sides: a heating company."""

    def get_contract(self, contract_id):
        if contract_id not in self.db["contracts"]:
            raise ValueError("Contract not found")
        return self.db["contracts"][contract_id]

    def unlock(self, contract_id):
        self.db["contracts"][contract_id]["locked"] = False
        return "unlocked"

    def send_engineer(self, contract_id, day):
        self.db["visits"][f"V{len(self.db['visits']) + 1}"] = {"contract": contract_id, "day": day}
        return {"visit": day}

    def lock(self, contract_id):
        self.db["contracts"][contract_id]["locked"] = True

    def assert_unlocked(self, contract_id):
        return not self.db["contracts"][contract_id]["locked"]


class Boiler:
    """The person's side: a boiler in the cellar with its panel."""

    def check_panel(self):
        state = "ON" if self.db["heating"] else "OFF"
        return f"Heating: {state}, mode {self.db['mode']}, locked {self.db['locked']}"

    def toggle_heating(self):
        self.db["heating"] = not self.db["heating"]
        return f"Heating is now {'ON' if self.db['heating'] else 'OFF'}"

    def set_mode(self, mode):
        if mode not in ("eco", "comfort"):
            raise ValueError("no such mode")
        self.db["mode"] = mode
        return f"Mode {mode}"

    def press_reset(self):
        self.db["presses"] += 1
        return "The light blinks."

    def freeze(self, mode="off"):
        self.db["heating"], self.db["mode"] = False, mode

    def is_warm(self):
        return self.db["heating"] and not self.db["locked"] and self.db["mode"] == "comfort"


class House:
    """Both sides; the boiler is locked as the contract is."""

    def __init__(self, initial):
        self.agent, self.person = Office(), Boiler()
        contracts = {"H1": {"person": "Ann Lee", "locked": False, "code": "blue-7"}}
        contracts |= initial.get("contracts", {})
        self.agent.db = {"contracts": copy.deepcopy(contracts), "visits": {}}
        self.person.db = {"heating": True, "mode": "comfort", "locked": False, "presses": 0}

    def sync(self):
        self.person.db["locked"] = self.agent.db["contracts"]["H1"]["locked"]

    def records(self):
        return {**self.agent.db, "boiler": {"boiler": dict(self.person.db)}}


OFFICE = [text("get_contract", contract_id="string"), text("unlock", contract_id="string"),
          text("send_engineer", contract_id="string", day="string")]  # fmt: skip
BOILER = [text("check_panel"), text("toggle_heating"), text("set_mode", mode="string"),
          text("press_reset")]  # fmt: skip
HEATING = re.compile(r"\b(?:turn|switch)[^.;!?\n]{0,30}?heating", re.IGNORECASE)
WAYS = [
    Way(
        tool="toggle_heating",
        words=HEATING,
        look=("check_panel", re.compile(r"Heating: (\w+)")),
    ),
    Way(tool="press_reset", words=re.compile(r"\bpress (?:the )?reset", re.IGNORECASE)),
    Way(tool="check_panel", words=re.compile(r"\b(?:what|is|does)\b.{0,30}?panel", re.I)),
    Way(
        tool="set_mode",
        words=re.compile(r"\bset[^.;!?\n]{0,30}?mode", re.IGNORECASE),
        fill=lambda words: [{"mode": m} for m in ("eco", "comfort") if m in words] or [{}],
    ),
]


def action(name, *, by="assistant", compare_args=None, **arguments):
    return {"name": name, "arguments": arguments, "requestor": by, "compare_args": compare_args}


def assertion(name, *, of="user", value=True, **arguments):
    return {"env_type": of, "func_name": name, "arguments": arguments, "assert_value": value}


def house_task(number, actions, *, basis=("ENV_ASSERTION",), assertions=(), initial=(), data=None):
    return {
        "id": str(number),
        "user_scenario": {
            "instructions": "I am Ann Lee, H1 is my contract. "
            "I am in on Monday, and know the modes eco and comfort. It is cold here."
        },
        "initial_state": {"initialization_actions": list(initial), "initialization_data": data},
        "evaluation_criteria": {
            "actions": actions,
            "env_assertions": list(assertions),
            "reward_basis": list(basis),
        },
    }


COLD = house_task(
    0,
    [
        action("unlock", contract_id="H1"),
        action("toggle_heating", by="user"),
        action("set_mode", by="user", mode="comfort"),
    ],
    assertions=[
        assertion("is_warm"),
        assertion("assert_unlocked", of="assistant", contract_id="H1"),
    ],
    initial=[
        {"env_type": "assistant", "func_name": "lock", "arguments": {"contract_id": "H1"}},
        {"env_type": "user", "func_name": "freeze", "arguments": {"mode": "eco"}},
    ],
)
VISIT = house_task(
    1,
    [
        action("press_reset", by="user"),
        action("get_contract", contract_id="H1"),
        action("send_engineer", compare_args=["contract_id"], contract_id="H1", day="Monday"),
    ],
    basis=("ACTION",),
)
EXACT = house_task(
    2,
    [action("set_mode", by="user", mode="eco"), action("unlock", contract_id="H2")],
    basis=("DB",),
    data={"contracts": {"H2": {"contract_id": "H2", "person": "Ann Lee", "locked": True}}},
)


def house(*tasks, **more):
    return SidesSet(
        "tau2:house", "own", tasks=tasks or (COLD, VISIT, EXACT), policy="Be kind.",
        schemas=OFFICE, acts=BOILER, make=House, ways=WAYS,
        finders={"contracts": (("person",),)}, **more,
    )  # fmt: skip


TOOL_WHEEL = """
def made(kit, *names):
    def maker(name):
        def make():
            return name, getattr(kit, name, None)
        return make
    return [maker(name) for name in names]
class Model:
    model_fields = {}
    def __init__(self, **fields):
        self.__dict__.update(fields)
    def model_dump(self):
        return plain(self.__dict__)
    def model_copy(self, deep):
        import copy
        return copy.deepcopy(self)
def plain(value):
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.model_dump() if isinstance(value, Model) else value
"""
TELECOM_WHEEL = {
    "inspect_evals/tau2/fake.py": TOOL_WHEEL,
    "inspect_evals/tau2/telecom/__init__.py": "",
    "inspect_evals/tau2/telecom/data_model.py": """
from inspect_evals.tau2.fake import Model
class TelecomDB:
    @classmethod
    def load(cls, path):
        line = Model(line_id="L1", phone_number="555-1", roaming=False)
        ann = Model(customer_id="C1", phone_number="555-1", bill_ids=["B1"])
        bills = [Model(bill_id="B1", due=1.0)]
        return Model(plans=[], devices=[], lines=[line], customers=[ann], bills=bills)
""",
    "inspect_evals/tau2/telecom/user_data_model.py": """
from inspect_evals.tau2.fake import Model
class TelecomUserDB:
    @classmethod
    def load(cls, path):
        return Model(roaming_allowed=False, roaming=False)
""",
    "inspect_evals/tau2/telecom/environment.py": """
class Environment:
    def __init__(self, user_tools, tools):
        self.user_tools, self.tools = user_tools, tools
        self.sync_tools()
    def sync_tools(self):
        self.user_tools.db.roaming_allowed = self.tools.db.lines[0].roaming
""",
    "inspect_evals/tau2/telecom/TelecomAgentTools.py": """
import uuid
from inspect_evals.tau2.fake import Model
class Field:
    def get_default(self, call_default_factory):
        return 2.0
class TelecomAgentTools:
    model_fields = {"db": Field(), "price": Field()}
    def __init__(self):
        raise RuntimeError("keeps its state elsewhere")
    @property
    def line(self):
        return self.db.lines[0]
    def enable_roaming(self, line_id):
        self.line.roaming = True
        bill = Model(bill_id="B" + uuid.uuid4().hex[:8], due=self.price)
        self.db.bills.append(bill)
        self.db.customers[0].bill_ids.append(bill.bill_id)
        return {"line": self.line}
    def bill_as(self, bill_id):
        self.db.bills.append(Model(bill_id=bill_id, due=3.0))
""",
    "inspect_evals/tau2/telecom/TelecomUserTools.py": """
class TelecomUserTools:
    model_fields = {}
    def toggle_roaming(self):
        self.db.roaming = not self.db.roaming
        return "Data Roaming is now " + ("ON" if self.db.roaming else "OFF")
    def check_network_status(self):
        return "Data Roaming Enabled: " + ("Yes" if self.db.roaming else "No")
    def assert_mobile_data_status(self, expected_status):
        return (self.db.roaming and self.db.roaming_allowed) == expected_status
""",
    "inspect_evals/tau2/telecom/tools.py": """
from inspect_evals.tau2.fake import made
all_telecom_agent_tools = made(None, "enable_roaming", "transfer_to_human_agents")
""",
    "inspect_evals/tau2/telecom/user_tools.py": """
from inspect_evals.tau2.fake import made
all_telecom_user_tools = made(None, "toggle_roaming", "check_network_status")
""",
}
ABROAD = {
    **house_task(
        "abroad",
        [action("enable_roaming", line_id="L1"), action("toggle_roaming", by="user")],
        assertions=[assertion("assert_mobile_data_status", expected_status=True)],
        initial=[
            {"env_type": "assistant", "func_name": "bill_as", "arguments": {"bill_id": "B77"}}
        ],
    ),
    "user_scenario": {"instructions": "My phone 555-1 is abroad, line L1."},
}
BANKING_WHEEL = {
    "inspect_evals/tau2/banking/__init__.py": "",
    "inspect_evals/tau2/banking/environment.py": "",
    "inspect_evals/tau2/banking/data_model.py": """
from inspect_evals.tau2.fake import Model
class TransactionalDB(Model):
    model_fields = {"users": None, "cards": None}
    @classmethod
    def model_validate(cls, data):
        return cls(**{name: Model(data=table["data"]) for name, table in data.items()})
class KnowledgeBase:
    def __init__(self, documents):
        self.documents = documents
    def grep(self, pattern):
        return " ".join(one["content"] for one in self.documents.values() if pattern in str(one))
""",
    "inspect_evals/tau2/banking/BankingAgentTools.py": """
class BankingAgentTools:
    model_fields = {}
    def transfer_to_human_agents(self, summary):
        return "Transfer successful"
    def call_tool(self, agent_tool_name, arguments):
        return "Error: no such tool"
""",
    "inspect_evals/tau2/banking/BankingUserTools.py": """
class BankingUserTools:
    model_fields = {}
    def apply(self, card_type):
        self.db.cards.data[card_type] = {"card_type": card_type}
        return "applied"
""",
    "inspect_evals/tau2/banking/tools.py": """
from inspect_evals.tau2.fake import made
all_banking_agent_tools = made(None, "banking_transfer_to_human_agents", "banking_call_tool")
banking_grep = made(None, "banking_grep")[0]
""",
    "inspect_evals/tau2/banking/user_tools.py": """
from inspect_evals.tau2.fake import made
all_banking_user_tools = made(None, "banking_apply")
""",
}
CARD = {
    **house_task(
        "card", [action("apply", by="user", card_type="Gold Card")], basis=("DB",),
        data={"agent_data": {"users": {"data": {"u1": {"name": "Ann Lee"}}}, "none": {}}},
    ),
    "user_scenario": {"instructions": "I am Ann Lee and want a card."},
}  # fmt: skip


def two_sided_files(root):
    """The data of telecom and banking, under a folder."""
    bank, telecom = f"{root}/banking_knowledge", f"{root}/telecom"
    other = {**ABROAD, "id": "other"}
    return {
        f"{telecom}/tasks.json": json.dumps([ABROAD, other]),
        f"{telecom}/split_tasks.json": json.dumps({"base": ["abroad"]}),
        f"{telecom}/main_policy.txt": "Be kind.",
        f"{telecom}/tech_support_manual.txt": "Phones roam.",
        f"{bank}/tasks.json": json.dumps([CARD]),
        f"{bank}/db.json": json.dumps({
            "users": {"data": {"u1": {"name": "A", "email": "a@x.org"}}, "notes": ""},
            "cards": {"data": {}},
        }),
        f"{bank}/documents.json": json.dumps([{"id": "d", "content": "There is the Gold Card."}]),
        f"{bank}/prompts/grep_only.md": "{{component:head}} Use grep.",
        f"{bank}/prompts/components/head.md": "You work at a bank.",
    }  # fmt: skip
