"""How agents ask a person of tau2's telecom to do something with their phone, in plain words.

A pattern begins with what is asked for (`turn`, `check`) and ends with its object. Readers answer
questions, the others take orders; `_hands` decides whether either is meant.
"""

from __future__ import annotations

import re
from typing import Any

from ._hands import Way

_GAP = r"(?:(?!\b(?:and|then)\b)[^.;!?\n]){0,50}?"
_WIDE_GAP = r"[^.;!?\n]{0,60}?"
_SET = rf"\b(?:turn|switch|toggle|enable|disable|activate|deactivate|put){_GAP}"
_LOOK = (
    r"\b(?:is|are|check|look|see|tell|what|which|whether|confirm|verify|open|show|does|do you)"
    + _GAP
)
_NETWORK, _PLANE = "check_network_status", "(?:air ?plane|flight)"
MODES = {
    "4g_5g_preferred": r"4g_5g_preferred|5g|4g ?(?:/|and|or) ?5g",
    "4g_only": r"4g_only|4g|lte",
    "3g_only": r"3g_only|3g",
    "2g_only": r"2g_only|2g",
}
PERMISSIONS = ("sms", "storage", "phone", "network")
APPS = ("messaging", "browser")


def _mode(sentence: str) -> list[dict[str, Any]]:
    found = [mode for mode, words in MODES.items() if re.search(rf"\b(?:{words})", sentence, re.I)]
    return [{"mode": found[0]}] if found else [{}]


def _app(sentence: str) -> dict[str, Any]:
    found = [app for app in APPS if app in sentence.lower()]
    return {"app_name": found[0]} if found else {}


def _apps(sentence: str) -> list[dict[str, Any]]:
    return [_app(sentence)]


def _permissions(sentence: str) -> list[dict[str, Any]]:
    found = [one for one in PERMISSIONS if re.search(rf"\b{one}\b", sentence, re.IGNORECASE)]
    return [{**_app(sentence), "permission": one} for one in found] or [_app(sentence)]


def _way(tool: str, words: str, **more: Any) -> Way:
    return Way(tool=tool, words=re.compile(words, re.IGNORECASE), **more)


def _switch(tool: str, thing: str, reader: str, where: str) -> Way:
    return _way(tool, rf"{_SET}{thing}", look=(reader, re.compile(where, re.IGNORECASE)))


TELECOM = (
    _switch("toggle_airplane_mode", rf"{_PLANE} mode", _NETWORK, r"Airplane Mode: (\w+)"),
    _switch("toggle_data", r"(?:mobile|cellular) data", _NETWORK, r"Mobile Data Enabled: (\w+)"),
    _switch("toggle_roaming", r"roaming", _NETWORK, r"Data Roaming Enabled: (\w+)"),
    _switch("toggle_wifi_calling", r"wi-?fi calling", "check_wifi_calling_status", r"turned (\w+)"),
    _switch("toggle_wifi", r"wi-?fi(?! ?calling)", _NETWORK, r"Wi-Fi Radio: (\w+)"),
    _switch("toggle_data_saver_mode", r"data saver", "check_data_restriction_status", r"is (\w+)"),
    _way("connect_vpn", rf"\bconnect{_GAP}vpn|\b(?:turn|switch) on{_GAP}vpn"),
    _way("disconnect_vpn", rf"\bdisconnect{_GAP}vpn|\b(?:turn|switch) off{_GAP}vpn"
                           rf"|\b(?:turn|switch){_GAP}vpn off\b|\b(?:disable|deactivate){_GAP}vpn"),
    _way("set_network_mode_preference",
         rf"\b(?:set|change|switch|select|choose){_GAP}(?:network (?:mode|type)|preferred network)",
         fill=_mode),
    _way("reseat_sim_card", rf"\b(?:re-?seat|re-?insert|remove|take out){_GAP}sim\b"),
    _way("reset_apn_settings", rf"\b(?:reset|restore){_GAP}(?:apn|access point)"),
    _way("reboot_device", rf"\b(?:restart|reboot){_GAP}(?:phone|device|it\b)|\breboot\b"),
    _way("grant_app_permission", rf"\b(?:grant|give|allow|enable){_WIDE_GAP}permissions?\b",
         fill=_permissions),
    _way("make_payment", rf"\b(?:make|complete|approve){_GAP}payment|\bpay{_GAP}bill"),
    _way("run_speed_test", rf"\b(?:run|do|perform|try|take){_GAP}speed ?test"
                           rf"|{_LOOK}(?:internet speed|how fast)"),
    _way("can_send_mms", rf"\b(?:can|try|are|send|test){_GAP}(?:mms|picture message)"),
    _way("check_payment_request", rf"{_LOOK}payment request"),
    _way("check_status_bar", rf"{_LOOK}status bar"),
    _way("check_sim_status", rf"{_LOOK}sim\b"),
    _way("check_apn_settings", rf"{_LOOK}(?:apn|access point)"),
    _way("check_vpn_status", rf"{_LOOK}vpn"),
    _way("check_wifi_calling_status", rf"{_LOOK}wi-?fi calling"),
    _way("check_wifi_status", rf"{_LOOK}wi-?fi(?! ?calling)"),
    _way("check_data_restriction_status", rf"{_LOOK}data saver"),
    _way("check_network_mode_preference", rf"{_LOOK}(?:network (?:mode|type)|preferred network)"),
    _way("check_app_permissions", rf"{_LOOK}permissions?\b", fill=_apps),
    _way(_NETWORK, rf"{_LOOK}(?:{_PLANE}|mobile data|roaming|network status|signal|service)"),
)  # fmt: skip
"""Ways of asking, of those of one length the first."""
