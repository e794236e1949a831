"""Small sets of our own in the forms of tau2-bench and BFCL, and fake wheels of them."""

import copy
import json
from types import SimpleNamespace

from longcat_envs.loaders import Backends, BfclSet, Tau2Set


def text(name, **parameters):
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": name,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
            },
        },
    }


class KioskTools:
    """Tools in the form of tau2's: methods that find the tables in `self.db`."""

    db: SimpleNamespace

    def get_order(self, order_id):
        return json.dumps(self._order(order_id))

    def find_user(self, email):
        for key, user in self.db.users.items():
            if user["email"] == email:
                return key
        raise ValueError("User not found")

    def cancel(self, order_id):
        order = self._order(order_id)
        if order["status"] != "open":
            raise ValueError("only an open order can be cancelled")
        order["status"] = "cancelled"
        return "cancelled"

    def exchange(self, order_id, items, new_items):
        self._order(order_id)["items"] = new_items
        return "exchanged"

    def guests(self, order_id, guests):
        self._order(order_id)["guests"] = guests
        return "noted"

    def spoil(self, order_id):
        for order in self.db.orders.values():
            order["status"] = "spoilt"
        return "spoilt"

    def _order(self, order_id):
        if order_id not in self.db.orders:
            raise ValueError("Order not found")
        return self.db.orders[order_id]


KIOSK = [
    text("get_order", order_id="string"),
    text("find_user", email="string"),
    text("cancel", order_id="string"),
    text("spoil", order_id="string"),
    text("exchange", order_id="string", items="array", new_items="array"),
    text("guests", order_id="string", guests="array"),
    text("calculate", expression="string"),
]
TABLES = {
    "orders": {
        "O1": {
            "user": "ann",
            "status": "open",
            "items": ["i1"],
            "total": 12.5,
            "guests": [{"first_name": "Bo", "last_name": "Lee"}],
        },
        "O2": {"user": "ann", "status": "done", "items": ["i2"], "total": 1240.5, "guests": []},
    },
    "users": {"ann": {"email": "ann@x.org", "name": "Ann", "orders": ["O1", "O2"]}},
    "items": {"i1": {"name": "tea"}, "i2": {"name": "cake"}, "i3": {"name": "scone"}},
}


def kiosk_task(number, reason, actions, told=(), **more):
    calls = [
        {"action_id": f"{number}_{place}", "name": name, "arguments": arguments}
        for place, (name, arguments) in enumerate(actions)
    ]
    return {
        "id": str(number),
        "user_scenario": {
            "instructions": {
                "reason_for_call": reason,
                "known_info": "You are ann.",
                "domain": "kiosk",
            }
        },
        "evaluation_criteria": {"actions": calls, "communicate_info": list(told), **more},
    }


CANCEL = kiosk_task(
    0,
    "You want to cancel order O1.",
    [("get_order", {"order_id": "O1"}), ("cancel", {"order_id": "O1"})],
)
ASK = kiosk_task(1, "What did O2 cost?", [("get_order", {"order_id": "O2"})], ["1240.5"])
NOTHING = kiosk_task(2, "You want to cancel O2, which is done.", [])


def kiosk(*tasks, public=("items",), **more):
    return Tau2Set(
        "kiosk",
        "own",
        tasks=tasks or (CANCEL, ASK, NOTHING),
        policy="Be kind.",
        tables=copy.deepcopy(TABLES),
        toolkit=KioskTools,
        schemas=KIOSK,
        public=public,
        free={"calculate": lambda expression: str(len(expression))},
        **more,
    )


class Box:
    """A back-end in the form of BFCL's."""

    def __init__(self):
        self._noise = object()

    def _load_scenario(self, scenario, long_context=False):
        self.things = list(scenario.get("things", []))
        self.tags = {}

    def put(self, thing):
        self.things.append(thing)
        return {"put": thing}

    def tag(self, thing, tags):
        self.tags[thing] = tags
        tags.append("seen")
        return f"{thing} has {len(tags)} tags"

    def look(self):
        return {"things": self.things}

    def fail(self):
        raise KeyError("no")

    def wrong(self):
        return {"error": "not today"}


def doc(name, **parameters):
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "name": name,
        "description": name,
        "parameters": {"type": "dict", "properties": properties, "required": list(properties)},
    }


BOX = [
    doc("put", thing="string"),
    doc("look"),
    doc("fail"),
    doc("wrong"),
    doc("tag", thing="string", tags="array"),
]


def entry(number, turns, **more):
    return {
        "id": f"box_{number}",
        "involved_classes": ["Box"],
        "question": [[{"role": "user", "content": turn}] if turn else [] for turn in turns],
        "initial_config": {"Box": {"things": ["cup"]}},
        **more,
    }


ENTRIES = [
    entry(0, ["Put a pen into the box, and show me the box.", "Put in a key as well."]),
    entry(
        1,
        ["Look into the box.", "", "Tag the cup as old."],
        missed_function={"1": ["look"]},
        excluded_function=["wrong"],
    ),
]
ANSWERS = {
    "box_0": [["put('pen')", "look()"], ["put(thing='key')"]],
    "box_1": [[], ["look()"], ["tag(thing='cup', tags=['old'])"]],
}


def make_box(name, scenario, is_long):
    box = Box()
    box._load_scenario(scenario, long_context=is_long)
    return box


def boxes(entries=ENTRIES, answers=ANSWERS):
    return BfclSet(
        "boxes", "own", entries=entries, answers=answers, backends=Backends(make_box, {"Box": BOX})
    )


TAU2_WHEEL = {
    "inspect_evals/__init__.py": "",
    "inspect_evals/tau2/__init__.py": "",
    "inspect_evals/tau2/retail/__init__.py": "",
    "inspect_evals/tau2/retail/RetailAgentTools.py": """
class RetailAgentTools:
    def __init__(self):
        raise RuntimeError("keeps its state elsewhere")
    def cancel(self, order_id):
        self.db.orders[order_id]["status"] = "cancelled"
        return "cancelled"
""",
    "inspect_evals/tau2/retail/data_model.py": """
from types import SimpleNamespace
class RetailDB:
    @classmethod
    def model_validate(cls, data):
        return SimpleNamespace(**data)
""",
    "inspect_evals/tau2/retail/tools.py": """
def cancel():
    async def execute(order_id): ...
    return "cancel", execute
def calculate():
    async def execute(expression):
        return str(eval(expression))
    return "calculate", execute
all_retail_tools = [cancel, calculate]
""",
    "inspect_ai/__init__.py": "",
    "inspect_ai/tool.py": """
class Parameters:
    def model_dump(self, exclude_none):
        return {"type": "object", "properties": {}}
class ToolDef:
    def __init__(self, made):
        self.name, self.tool = made
        self.description, self.parameters = self.name, Parameters()
""",
    "inspect_evals-9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: inspect-evals\nVersion: 9.9\n",
}
BFCL_WHEEL = {
    "bfcl_eval/__init__.py": "",
    "bfcl_eval/constants/__init__.py": "",
    "bfcl_eval/constants/executable_backend_config.py": """
CLASS_FILE_PATH_MAPPING = {"Box": "bfcl_eval.box"}
MULTI_TURN_FUNC_DOC_FILE_MAPPING = {"Box": "box.json"}
STATELESS_CLASSES = []
""",
    "bfcl_eval/box.py": """
class Box:
    def _load_scenario(self, scenario, long_context=False):
        self.things = list(scenario["things"]) + ["more"] * long_context
    def put(self, thing):
        self.things.append(thing)
        return {"put": thing}
""",
    "bfcl_eval/data/multi_turn_func_doc/box.json": json.dumps(BOX[0]),
    "bfcl_eval-9.8.dist-info/METADATA": "Metadata-Version: 2.1\nName: bfcl-eval\nVersion: 9.8\n",
}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def tau2_files(root, policy="policy.txt"):
    """The data of one domain, under a folder."""
    return {
        f"{root}/db.json": json.dumps(
            {"orders": TABLES["orders"], "products": TABLES["items"], "users": TABLES["users"]}
        ),
        f"{root}/tasks.json": json.dumps([CANCEL]),
        f"{root}/{policy}": "Be kind.",
    }
