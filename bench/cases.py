"""The cases of TLS handshakes that are measured."""

KINDS = {
    "ec": ("P-256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    "rsa": ("RSA-2048", "ECDHE-RSA-AES128-GCM-SHA256"),
}
"""The certificates, by the beginning of their files' names: what they are called, and the suite that asks for them."""

CASES = (("ec", "1.2", "new"), ("rsa", "1.2", "new"), ("ec", "1.3", "new"),
         ("ec", "1.2", "id"), ("ec", "1.2", "ticket"), ("rsa", "1.2", "id"), ("ec", "1.3", "ticket"))  # fmt: skip
"""What is measured: certificate, version of TLS, and how each connection begins."""


def key_of(certificate: str, version: str, mode: str) -> str:
    """Return what the keys of the table's rows of a case begin with."""
    return f"tls_{certificate}_{version}_{mode}"


def label_of(certificate: str, version: str, mode: str) -> str:
    """Return what the table calls a case."""
    how = {"new": "new handshakes", "id": "resumed by id", "ticket": "resumed by ticket"}[mode]
    return f"{how}, TLS {version}, {KINDS[certificate][0]}"
