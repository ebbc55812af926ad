"""CertificateSigningRequests: approves those of nodes (`approver.py`), signs what is approved (`signer.py`), and clears
away what is done with (`cleaner.py`). `requests.py` reads what a request asks for."""
