"""A small app that needs all of the platform.

POST /notes keeps the text of its body: a row in MariaDB, and a row about it in PostgreSQL; it
mails the text to the operators and counts it in Graphite. GET /notes gives what both databases
have, and GET /health says whether they can be read.
"""

import json
import os
import smtplib
import socket
import sys
import time
import tomllib
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg2
import pymysql

PORT = 8080
TIMEOUT = 3
NOTES = "CREATE TABLE IF NOT EXISTS notes (id INT AUTO_INCREMENT PRIMARY KEY, text TEXT NOT NULL)"
AUDIT = "CREATE TABLE IF NOT EXISTS audit (id SERIAL PRIMARY KEY, what TEXT NOT NULL)"


class Platform:
    def __init__(self, config, password):
        self.config = config
        self.password = password

    def mariadb(self):
        return pymysql.connect(
            host=self.config["mariadb"],
            user=self.config["login"],
            password=self.password,
            database="notes",
            connect_timeout=TIMEOUT,
            autocommit=True,
        )

    def postgres(self):
        connection = psycopg2.connect(
            host=self.config["postgres"],
            user=self.config["login"],
            password=self.password,
            dbname="notes",
            connect_timeout=TIMEOUT,
        )
        connection.autocommit = True
        return connection

    def tables(self):
        with self.mariadb() as db, db.cursor() as cursor:
            cursor.execute(NOTES)
        run(self.postgres(), AUDIT)

    def keep(self, text):
        with self.mariadb() as db, db.cursor() as cursor:
            cursor.execute("INSERT INTO notes (text) VALUES (%s)", (text,))
        run(self.postgres(), "INSERT INTO audit (what) VALUES (%s)", (f"kept: {text}",))
        self.mail(text)
        self.count()

    def kept(self):
        with self.mariadb() as db, db.cursor() as cursor:
            cursor.execute("SELECT text FROM notes ORDER BY id")
            notes = [row[0] for row in cursor.fetchall()]
        audit = run(self.postgres(), "SELECT what FROM audit ORDER BY id")
        return {"notes": notes, "audit": [row[0] for row in audit]}

    def mail(self, text):
        domain = self.config["domain"]
        message = EmailMessage()
        message["From"] = f"notes@{domain}"
        message["To"] = f"operators@{domain}"
        message["Subject"] = "A note was kept"
        message.set_content(text)
        with smtplib.SMTP(self.config["mail"], timeout=TIMEOUT) as relay:
            relay.send_message(message)

    def count(self):
        line = f"notes.kept 1 {int(time.time())}\n"
        with socket.create_connection((self.config["graphite"], 2003), TIMEOUT) as carbon:
            carbon.sendall(line.encode())


def run(connection, statement, values=()):
    """Runs a statement in PostgreSQL, gives its rows, and ends the connection."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def handler(platform):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/notes":
                self.answer(platform.kept)
            elif self.path == "/health":
                self.answer(lambda: {"notes": len(platform.kept()["notes"])})
            else:
                self.send_error(404)

        def do_POST(self):
            if self.path != "/notes":
                return self.send_error(404)
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self.answer(lambda: platform.keep(text) or {"kept": text})

        def answer(self, work):
            try:
                status, body = 200, work()
            except Exception as error:  # the platform is not there: say so, and stay
                status, body = 503, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode() + b"\n")

    return Handler


def main():
    config = tomllib.loads(Path(sys.argv[1]).read_text())
    password = (Path(os.environ["CREDENTIALS_DIRECTORY"]) / "db-password").read_text()
    platform = Platform(config, password)
    platform.tables()
    ThreadingHTTPServer((config["listen"], PORT), handler(platform)).serve_forever()


main()
