"""How long things last, in words. Pure."""


def lasting(seconds: int) -> str:
    """How long *seconds* are, in Docker's words (`go-units`)."""
    minutes, hours = seconds // 60, (seconds + 1800) // 3600
    if seconds < 60:
        return "Less than a second" if seconds < 1 else "1 second" if seconds == 1 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    for length, limit, unit in ((1, 48, "hours"), (24, 14 * 24, "days"), (7 * 24, 60 * 24, "weeks")):
        if hours < limit:
            return f"{hours // length} {unit}"
    months = hours // (30 * 24)
    return f"{months} months" if hours < 730 * 24 else f"{hours // (365 * 24)} years"
