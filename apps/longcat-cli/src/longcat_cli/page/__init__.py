"""The page that a run ends with, `report.html`: one file, light and dark, wide and narrow.

facts.py     what is told: numbers made short, stages in words
charts.py    curves as inline SVG that takes the page's colours
tables.py    rates by model, domain and noise
talks.py     the same task before and after; RL's first and last attempts
sheet.py     the style, and the page put together
"""
