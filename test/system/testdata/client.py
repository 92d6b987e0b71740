"""Sends one message with Python's smtplib: client.py HOW PORT SENDER FILE CERT."""
import smtplib
import socket
import ssl
import sys

how, port, sender, path, cert = sys.argv[1:]
content = open(path, "rb").read()


def pipelined():
    """Everything in one write, as RFC 2920 allows up to DATA, then the body."""
    with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as s:
        f = s.makefile("rb")

        def reply():
            while True:
                line = f.readline()
                if line[3:4] != b"-":
                    return line

        assert reply().startswith(b"220")
        s.sendall(b"EHLO python.test\r\n")
        assert reply().startswith(b"250")
        s.sendall(b"MAIL FROM:<%s>\r\nRCPT TO:<a@sink.test>\r\nRCPT TO:<b@sink.test>\r\nNOOP\r\nDATA\r\n" % sender.encode())
        codes = [reply()[:3] for _ in range(5)]
        assert codes == [b"250"] * 4 + [b"354"], codes
        s.sendall(smtplib._quote_periods(content) + b".\r\nRSET\r\nQUIT\r\n")
        codes = [reply()[:3] for _ in range(3)]
        assert codes == [b"250", b"250", b"221"], codes


if how == "pipelined":
    pipelined()
    sys.exit()

with smtplib.SMTP("127.0.0.1", int(port), timeout=20) as c:
    c.ehlo()
    options, to = [], ["u@sink.test", "v@sink.test"]
    if how == "starttls":
        context = ssl.create_default_context(cafile=cert)
        context.check_hostname = False
        c.starttls(context=context)
        c.ehlo()
    if how == "8bitmime":
        options = ["BODY=8BITMIME"]
    if how == "smtputf8":
        options, to = ["SMTPUTF8", "BODY=8BITMIME"], ["j\u00f6rg@sink.test"]
        c.command_encoding = "utf-8"
    refused = c.sendmail(sender, to, content, options)
    assert not refused, refused
