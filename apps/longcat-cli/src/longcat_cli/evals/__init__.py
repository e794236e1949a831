"""`longcat eval`: any model, on any domains, at any noise, several times a task.

targets.py    what is asked, and on which tasks
domains.py    the domains that are meant
names.py      what models are called, so that they can be told apart
trials.py     one model on one domain at one level, in a process of its own
server.py     a model behind OpenAI's chat API, as a policy
measures.py   from attempts to figures with intervals
table.py      the figures for people
"""
