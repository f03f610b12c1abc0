/*
 * What the TLS clients of the tests have in common: their arguments, a connection that watches what the server sends
 * in clear (RFC 5246, RFC 8446), one request, and a report.
 *
 * Arguments are KEY=VALUE:
 *   port=N        port of the server, at 127.0.0.1
 *   host=NAME     name that the server's certificate has to be for; also sent as its name
 *   ca=FILE       PEM file with the authorities that are trusted
 *   mfl=N         max_fragment_length to ask for (RFC 6066, section 4): 0 for none, or 512, 1024, 4096
 *   path=PATH     what to ask for; /firmware, unless something else is said
 *   times=N       how many connections to make, each with the session of the one before
 *   profile=NAME  of BearSSL: full, or basic (static RSA with AES-CBC, as BEARSSL_SSL_BASIC); of wolfSSL: 1.2 or 1.3
 *   tickets=N     of mbedTLS: 1 to resume by ticket, 0 by session id
 *   cert=FILE key=FILE  the client's own certificate and key
 *
 * The body of each answer goes to the standard output, a line of KEY=VALUE for each connection to the standard error:
 * version and suite in hexadecimal, `largest` the length of the largest record in bytes as its header says, `mfl` the
 * length that the server agreed to, or 0, and `resumed`. The status is 0 if all went well, else 1, with a last line
 * error=….
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char *argument(int count, char **values, const char *key, const char *otherwise) {
  size_t length = strlen(key);
  for (int i = 1; i < count; i++)
    if (!strncmp(values[i], key, length) && values[i][length] == '=') return values[i] + length + 1;
  return otherwise;
}

static int number(int count, char **values, const char *key, int otherwise) {
  const char *text = argument(count, values, key, NULL);
  return text ? atoi(text) : otherwise;
}

/* A connection, and what was seen on it. */
struct wire {
  int socket;
  unsigned char head[5];    /* of the record that is coming */
  unsigned have, left;      /* bytes of that head; bytes that are still to come of the record */
  unsigned largest;
  int encrypted;            /* whether ChangeCipherSpec was seen, behind which nothing is in clear */
  unsigned char clear[1 << 16];
  unsigned clear_length;    /* bytes of handshake messages that came in clear */
};

static int wire_open(struct wire *wire, int port) {
  memset(wire, 0, sizeof *wire);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct timeval patience = {.tv_sec = 20};
  wire->socket = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(wire->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return connect(wire->socket, (struct sockaddr *)&address, sizeof address);
}

static void wire_watch(struct wire *wire, const unsigned char *bytes, size_t length) {
  while (length) {
    if (wire->have < 5) {
      wire->head[wire->have++] = *bytes++;
      length--;
      if (wire->have == 5) {
        wire->left = (unsigned)wire->head[3] << 8 | wire->head[4];
        if (wire->left > wire->largest) wire->largest = wire->left;
        if (wire->head[0] == 20) wire->encrypted = 1;
      }
      continue;
    }
    size_t part = length < wire->left ? length : wire->left;
    if (wire->head[0] == 22 && !wire->encrypted && wire->clear_length + part <= sizeof wire->clear) {
      memcpy(wire->clear + wire->clear_length, bytes, part);
      wire->clear_length += (unsigned)part;
    }
    bytes += part;
    length -= part;
    wire->left -= (unsigned)part;
    if (!wire->left) wire->have = 0;
  }
}

static ssize_t wire_read(struct wire *wire, void *buffer, size_t length) {
  ssize_t got = recv(wire->socket, buffer, length, 0);
  if (got > 0) wire_watch(wire, buffer, (size_t)got);
  return got;
}

static ssize_t wire_write(struct wire *wire, const void *buffer, size_t length) {
  return send(wire->socket, buffer, length, MSG_NOSIGNAL);
}

/* Tell what the ServerHello said, and whether a certificate followed it. */
static void wire_report(const struct wire *wire) {
  static const unsigned lengths[] = {0, 512, 1024, 2048, 4096};
  unsigned version = 0, suite = 0, mfl = 0;
  int psk = 0, certificate = 0;
  for (unsigned at = 0; at + 4 <= wire->clear_length;) {
    const unsigned char *message = wire->clear + at;
    unsigned length = (unsigned)message[1] << 16 | (unsigned)message[2] << 8 | message[3];
    if (at + 4 + length > wire->clear_length) break;
    const unsigned char *body = message + 4, *end = body + length;
    if (message[0] == 11) certificate = 1;
    if (message[0] == 2 && length > 38) {
      version = (unsigned)body[0] << 8 | body[1];
      const unsigned char *next = body + 35 + body[34];
      suite = (unsigned)next[0] << 8 | next[1];
      for (next += 5; next + 4 <= end;) {
        unsigned type = (unsigned)next[0] << 8 | next[1], size = (unsigned)next[2] << 8 | next[3];
        if (type == 1 && next[4] <= 4) mfl = lengths[next[4]];
        if (type == 43) version = (unsigned)next[4] << 8 | next[5];
        if (type == 41) psk = 1;
        next += 4 + size;
      }
    }
    at += 4 + length;
  }
  int resumed = version == 0x0304 ? psk : version && !certificate;
  fprintf(stderr, "version=%04x suite=%04x largest=%u mfl=%u resumed=%d\n", version, suite, wire->largest, mfl, resumed);
}

static void wire_close(struct wire *wire) {
  wire_report(wire);
  close(wire->socket);
}

/* The answer to a request, of which the body is written out. */
struct answer {
  char tail[4]; /* the last bytes of its head */
  int body;
};

static void answer_feed(struct answer *answer, const unsigned char *bytes, size_t length) {
  for (; length && !answer->body; bytes++, length--) {
    memmove(answer->tail, answer->tail + 1, 3);
    answer->tail[3] = (char)*bytes;
    answer->body = !memcmp(answer->tail, "\r\n\r\n", 4);
  }
  fwrite(bytes, 1, length, stdout);
}

/* Return the request. */
static const char *request(int count, char **values) {
  static char text[300];
  snprintf(text, sizeof text, "GET %s HTTP/1.0\r\nHost: firmware\r\n\r\n", argument(count, values, "path", "/firmware"));
  return text;
}

static int fail(const char *what, int code) {
  fprintf(stderr, "error=%s:%s%x\n", what, code < 0 ? "-" : "", code < 0 ? (unsigned)-code : (unsigned)code);
  return 1;
}
