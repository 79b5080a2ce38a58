"""Files and mails as careful people want them, from POST to disk and mailbox."""

import json
from email import message_from_bytes, policy

import mail_reader
from eventually import eventually
from smtp_server import AND_HANG_UP, SmtpServer

SUBJECT = 'Ваш заказ  № 7 = "gut"   & so weiter; 👩‍👩‍👧 ' * 6


def test_a_file_is_written_as_it_was_asked_for_and_sent_by_a_later_job(service, tmp_path):
    rows = [{"ID": 1, "name": "Zoë", "amount": "-75,63", "rate": 0.00001}, {"ID": 2, "amount": "=1+1"}]
    table = {"rows": rows, "columns": ["ID", "amount", "rate", "name"], "delimiter": ";", "bom": True}
    content = '\ufeff"ID";amount;rate;name\n1;-75,63;0.00001;Zoë\n2;\'=1+1;;\n'.encode()
    with SmtpServer() as smtp:
        service.start_api()
        service.start_worker(MAIL_HOST="127.0.0.1", MAIL_PORT=str(smtp.port), MAIL_EHLO_NAME="out.example.org")
        csv = service.when(service.post("csv-generation", table), "completed")
        assert content == (tmp_path / csv["result"]).read_bytes()

        mail = {
            "to": "ann@example.net",
            "subject": SUBJECT,
            "body": "Here it is.",
            "list_unsubscribe": "https://example.com/u",
            "list_unsubscribe_post": True,
            "headers": {"X-Campaign": "Mai  2026"},
            "attachments": [
                {"output": csv["result"], "filename": "Übersicht.csv"},
                {"content": "JVBERg==", "filename": "a.pdf"},
            ],
        }
        service.when(service.post("EMAIL_SEND", mail), "completed")

    (received,) = smtp.mails
    assert "ehlo out.example.org" == smtp.commands[0]
    texts = {name: mail_reader.text(received.content, name) for name in ("Subject", "Auto-Submitted", "X-Campaign")}
    assert {"Subject": SUBJECT, "Auto-Submitted": "auto-generated", "X-Campaign": "Mai  2026"} == texts
    parts = message_from_bytes(received.content, policy=policy.default).iter_attachments()
    assert [("Übersicht.csv", content), ("a.pdf", b"%PDF")] == [
        (part.get_filename(), part.get_payload(decode=True)) for part in parts
    ]


def test_what_a_server_says_before_it_hangs_up_is_on_the_job(service):
    words = "421 4.7.0 your name is not known here, see our pages"
    with SmtpServer({"EHLO": words + AND_HANG_UP}) as smtp:
        service.start_api()
        service.start_worker(MAIL_HOST="127.0.0.1", MAIL_PORT=str(smtp.port))
        job_id = service.post("EMAIL_SEND", {"to": "ann@example.net", "subject": "s", "body": "b"})

        eventually(lambda: words in json.dumps(service.job(job_id)), what="the server's words on the job")


def test_a_name_for_an_output_that_no_store_takes_makes_no_job(service):
    service.start_api()
    mail = {
        "to": "ann@example.net",
        "subject": "s",
        "body": "b",
        "attachments": [{"output": "output/../../etc/passwd"}],
    }

    status, problem = service.request("POST", "/jobs", {"type": "EMAIL_SEND", "payload": mail})

    assert 422 == status
    assert "/payload/attachments/0/output" in json.dumps(problem)


def test_a_file_of_50_000_rows_is_written_and_a_mail_goes_to_100_recipients(service, tmp_path):
    """With the default limits: the largest number of recipients, and a body of nearly a megabyte."""
    rows = [{"id": number, "ok": 1} for number in range(50_000)]
    people = [f"person{number}@example.net" for number in range(100)]
    mail = {"to": people[:50], "cc": people[50:60], "bcc": people[60:], "subject": "s", "body": "b"}
    with SmtpServer() as smtp:
        service.start_api()
        service.start_worker(MAIL_HOST="127.0.0.1", MAIL_PORT=str(smtp.port))
        csv_id = service.post_text("csv-generation", json.dumps(rows, separators=(",", ":")))
        mail_id = service.post("EMAIL_SEND", mail)

        csv, sent = (service.when(job_id, "completed") for job_id in (csv_id, mail_id))

    assert (1, 1) == (csv["attempts"], sent["attempts"])
    lines = (tmp_path / csv["result"]).read_text().splitlines()
    assert ["id,ok", *(f"{number},1" for number in range(50_000))] == lines
    (received,) = smtp.mails
    assert people == received.recipients
    assert b"person60@" not in received.content
