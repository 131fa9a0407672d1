"""Secrets in configuration that is not encrypted: what is certainly one, and what only sounds like one."""

from __future__ import annotations

import time

import pytest

from reconciler.core.secrets.plain_secrets import plain_secrets
from tests.support.cases import each

# The canary is in every value, so that the test can show that none is quoted.
SECRETS = [
    # YAML
    ("db:\n  password: hunter2 # the old one\n", 2, "password"),
    ("password: '482913'\n", 1, "password"),
    ('password: "$ecr3t-hunter2"\n', 1, "password"),
    ("password: ${PASSWORD:-hunter2}\n", 1, "password"),
    ("password:\n  hunter2\n", 1, "password"),
    ("password: |-\n\n  hunter2\n", 1, "password"),
    ("- {api_key: hunter2}\n", 1, "api_key"),
    ("cookie_secret: averyrandomhunter\n", 1, "cookie_secret"),
    ("environment:\n  - POSTGRES_PASSWORD=postgres\n", 2, "POSTGRES_PASSWORD"),
    ("command: redis-server --requirepass hunter2 --appendonly yes\n", 1, "requirepass"),
    ("- name: DB_PASSWORD\n  value: hunter2\n", 1, "DB_PASSWORD"),
    # JSON
    ('{\n  "clientSecret": "hunter2hunter2"\n}', 2, "clientSecret"),
    ('{"name": "DB_PASSWORD", "value": "hunter2"}', 1, "DB_PASSWORD"),
    ('{"command": ["redis-server", "--requirepass", "hunter2"]}', 1, "requirepass"),
    # TOML, INI, properties
    ("[smtp]\n\nsmtp_password = 'hunter2'\n", 3, "smtp_password"),
    ("[database]\npasswd = hunter2\n", 2, "passwd"),
    ("secret_key=invented-9f8e7d6c5b4a\n", 1, "secret_key"),
    ("spring.datasource.password=Sup3rS3cret!\n", 1, "spring.datasource.password"),
    ("url=jdbc:postgresql://db/x?user=u&password=hunter2\n", 1, "password"),
    ("PrivateKey = yAnz5TF+hunter2te14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", 1, "PrivateKey"),
    # nginx, redis and their like
    ("location / {\n  fastcgi_param DB_PASSWORD hunter2;\n}\n", 2, "DB_PASSWORD"),
    ("proxy_set_header X-Api-Key abc123hunter2def456;\n", 1, "X-Api-Key"),
    ('proxy_set_header Authorization "Basic dXNlcjpodW50ZXIy";\n', 1, "login credentials"),
    ("requirepass swordfish\n", 1, "requirepass"),
    ("user api on >hunter2 ~* +@all\n", 1, "login credentials"),
    ("stats auth admin:hunter2\n", 1, "login credentials"),
    # XML
    ("<user>\n<password>hunter2</password></user>", 2, "password"),
    ('<Resource name="jdbc/x" username="u" password="hunter2"/>', 1, "password"),
    ('<property name="password">hunter2</property>', 1, "password"),
    ('<add key="DbPassword" value="hunter2"/>', 1, "DbPassword"),
    ("note: <!-- never closed\npassword: hunter2\n", 2, "password"),
    # by form alone, whatever the key is called
    ("url: postgres://me:hunter2@db/x\n", 1, "a URL with a password"),
    ("dsn: https://0123456789abcdefhunter2@errors.example.org/2\n", 1, "a URL with a key"),
    ("x: https://hooks.slack.com/services/T0/B0/hunter2\n", 1, "a webhook"),
    ("x: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.hunter2\n", 1, "a token of a known form"),
    ("admin:$apr1$hunter2h$0123456789abcdefghijkl\n", 1, "a password hash"),
]

HARMLESS = [
    # references, paths, placeholders
    "password: ${DB_PASSWORD}\ntoken: $TOKEN\nsecret: '{{ secret }}'\napi_key: ${API_KEY:-}\n",
    "with:\n  token: ${{ secrets.GITHUB_TOKEN }}\npermissions:\n  id-token: write\n",
    "secrets:\n  db_password:\n    file: ./db_password.txt\nservices:\n  db:\n    secrets: [db_password]\n",
    "- name: PASSWORD\n  valueFrom:\n    secretKeyRef: {name: db, key: password}\nimagePullSecrets: [{name: x}]\n",
    "existingSecret: app-secret\ntls:\n  secretName: app-tls\nauth-secret: basic-auth\npassword: !secret db\n",
    "password: ${DB_PASSWORD:-postgres}\n",
    "password: changeme\nsecret: <your secret>\ntoken: your-token-here\napi_key: xxxxxxxx\npassword1: '********'\n",
    "password_file: /run/secrets/db\npassword: /run/secrets/db\ncredentials_file: x.json\nssl_key: ./x.key\n",
    # keys that open nothing
    'key: ${{ runner.os }}-pip-${{ hashFiles("x") }}\ncache_key: v1-packages\ntopologyKey: example.org/hostname\n',
    "relabel_configs:\n  - source_labels: [job]\n    target_label: key\n    regex: (.+)token:(.+)\n",
    '{"dependencies": {"js-token": "^4.0.0", "password": "1.2.3"}, "integrity": "sha512-0a1b2c3d4e5f6a7b8c=="}',
    '{"uid": "000000012", "hash": "0123456789abcdef0123456789abcdef", "sortKey": "name", "pad_token": "[PAD]"}',
    '{"type": "object", "properties": {"password": {"type": "string"}, "token": "string"}, "required": ["password"]}',
    '{"login.password": "Password", "reset_password": "Reset your password", "password": "Mot-de-passe"}',
    # server configuration
    "proxy_pass http://api:8000;\nfastcgi_pass unix:/run/php.sock;\nssl_certificate_key /etc/ssl/x.key;\n",
    'proxy_cache_key "$scheme$host$request_uri";\nproxy_set_header Authorization $http_authorization;\n',
    "rewrite ^/a/(.*)$ /b/$1$is_args$args;\nhash $request_uri consistent;\nlimit_req_zone $binary_remote_addr;\n",
    "# requirepass foobared\n; password = hunter2\n  // token = hunter2\nport 6379  # password: hunter2\n",
    "passwd: files systemd\npassword required pam_unix.so\npassword sufficient pam_sss.so use_authtok\n",
    "<users>\n<!-- <user password='hunter2'/>\n-->\n<password/><password>${env.PASSWORD}</password></users>",
    "filter_factory = keystonemiddleware.auth_token:filter_factory\npassword_hasher = bcrypt\ntoken_url = https://a.org\n",
    "url: postgres://app:${PASSWORD}@db/x\nother: http://user:password@proxy\nlisten: tcp://0.0.0.0:80\n",
    "- '--password-file=/run/secrets/x'\n- -passwd .htpasswd\n- --initial-cluster-token etcd-cluster-1\n",
    '{"psk": 1234, "pw": 77}\nRUN adduser --disabled-password --gecos x\nprivate_key = $dir/ca.key\n',
    "# admin:$apr1$abcdefgh$0123456789abcdefghijkl\nAPI_TOKEN: dummytoken1\n",
    "# an API\nopenapi: 3.1.0\nexample:\n  password: hunter2\n",
    "password: '{$DB.PASSWORD}'\nuser_password: '{password}'\n",
    "# a pass takes four minutes, the hash of it less\n  description: the token expires; its password is bad\n",
]


@each(("text", "line", "subject"), SECRETS, ids=[subject for _, _, subject in SECRETS])
def test_a_secret_in_plain_configuration_is_found_at_its_line(text: str, line: int, subject: str) -> None:
    (secret,) = plain_secrets(text)
    assert (secret.line, secret.name or secret.form) == (line, subject)
    assert "hunter" not in repr(secret)


@each("text", HARMLESS)
def test_what_only_sounds_like_a_secret_is_no_finding(text: str) -> None:
    assert plain_secrets(text) == []


def test_a_program_is_searched_for_forms_only() -> None:
    text = "const password = readPassword;\nfetch('https://me:hunter2@api.example.org')\n"
    assert [secret.line for secret in plain_secrets(text, names=False)] == [2]


@pytest.mark.parametrize(
    "unit",
    [
        "password: hunter2\n", "password=", "password=${x", "key: ", 'password "', "user x ", '<a name="b" ', "<!--",
        "name: a ", '"-p",', "://a:", "11,", "eyJaaaaaaaaa.", "token: ${", "   \n", "- x:\n",
    ],
)  # fmt: skip
def test_the_time_grows_with_the_text_alone(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        began = time.process_time()
        plain_secrets(text)
        return time.process_time() - began

    assert seconds(120_000) < 10 * (seconds(30_000) + 0.003)
