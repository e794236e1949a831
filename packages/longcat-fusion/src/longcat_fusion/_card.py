"""The model card of a merged checkpoint."""

from __future__ import annotations

import json
from typing import Any

from ._plan import Plan


def model_card(plan: Plan, manifest: dict[str, Any]) -> str:
    """Write `README.md` for the merged model: what it was made of, and how to make it again."""
    updates = manifest["updates"]
    experts = "\n".join(f"- `{path.name}`" for path in plan.experts)
    settings = json.dumps(manifest["config"], indent=2, ensure_ascii=False)
    return f"""---
library_name: transformers
tags:
- merge
- longcat-fusion
---

# {plan.out.name}

The experts below merged over `{plan.base.name}` by {manifest["made_with"]}, method
`{manifest["config"]["method"]}`.

{experts}

The merge changed {updates["moved"]:,} elements before rounding; rounding put
{updates["lost"]:,} of them back to the base's value.

Settings, from `merge.json`, which also holds the digests of inputs and outputs:

```json
{settings}
```
"""
