/* Fetches /firmware with BearSSL, as an ESP8266 does; client.h tells the arguments and the report. */
#include <bearssl.h>

#include "client.h"

#define MAX_ANCHORS 8

/* Bytes that grow. */
struct bytes {
  unsigned char *data;
  size_t length;
};

static void append(void *to, const void *data, size_t length) {
  struct bytes *bytes = to;
  bytes->data = realloc(bytes->data, bytes->length + length);
  memcpy(bytes->data + bytes->length, data, length);
  bytes->length += length;
}

/* Read the objects of a PEM file; return how many there are. */
static size_t read_pem(const char *path, struct bytes *objects, size_t most) {
  FILE *file = fopen(path, "rb");
  if (!file) return 0;
  br_pem_decoder_context decoder;
  br_pem_decoder_init(&decoder);
  unsigned char buffer[512];
  size_t got, count = 0;
  while ((got = fread(buffer, 1, sizeof buffer, file)) > 0) {
    for (size_t at = 0; at < got;) {
      at += br_pem_decoder_push(&decoder, buffer + at, got - at);
      switch (br_pem_decoder_event(&decoder)) {
        case BR_PEM_BEGIN_OBJ:
          if (count == most) { fclose(file); return count; }
          memset(&objects[count], 0, sizeof objects[count]);
          br_pem_decoder_setdest(&decoder, append, &objects[count]);
          break;
        case BR_PEM_END_OBJ:
          count++;
          break;
      }
    }
  }
  fclose(file);
  return count;
}

static void *copy(const void *data, size_t length) { return memcpy(malloc(length), data, length); }

/* Read the authorities that are trusted. */
static size_t read_anchors(const char *path, br_x509_trust_anchor *anchors) {
  struct bytes objects[MAX_ANCHORS];
  size_t count = read_pem(path, objects, MAX_ANCHORS);
  for (size_t i = 0; i < count; i++) {
    struct bytes name = {0};
    br_x509_decoder_context *decoder = malloc(sizeof *decoder);
    br_x509_decoder_init(decoder, append, &name);
    br_x509_decoder_push(decoder, objects[i].data, objects[i].length);
    const br_x509_pkey *key = br_x509_decoder_get_pkey(decoder);
    if (!key) return 0;
    anchors[i].dn.data = name.data;
    anchors[i].dn.len = name.length;
    anchors[i].flags = br_x509_decoder_isCA(decoder) ? BR_X509_TA_CA : 0;
    anchors[i].pkey = *key;
    if (key->key_type == BR_KEYTYPE_RSA) {
      anchors[i].pkey.key.rsa.n = copy(key->key.rsa.n, key->key.rsa.nlen);
      anchors[i].pkey.key.rsa.e = copy(key->key.rsa.e, key->key.rsa.elen);
    } else {
      anchors[i].pkey.key.ec.q = copy(key->key.ec.q, key->key.ec.qlen);
    }
  }
  return count;
}

/* The smallest profile, of sketches that ask for BEARSSL_SSL_BASIC: no elliptic curves at all. */
static void init_basic(br_ssl_client_context *client, br_x509_minimal_context *x509, const br_x509_trust_anchor *anchors,
                       size_t count) {
  static const uint16_t suites[] = {BR_TLS_RSA_WITH_AES_256_CBC_SHA256, BR_TLS_RSA_WITH_AES_128_CBC_SHA256,
                                    BR_TLS_RSA_WITH_AES_256_CBC_SHA, BR_TLS_RSA_WITH_AES_128_CBC_SHA};
  static const br_hash_class *const hashes[] = {&br_md5_vtable,    &br_sha1_vtable,   &br_sha224_vtable,
                                                &br_sha256_vtable, &br_sha384_vtable, &br_sha512_vtable};
  br_ssl_client_zero(client);
  br_ssl_engine_set_versions(&client->eng, BR_TLS10, BR_TLS12);
  br_ssl_engine_set_suites(&client->eng, suites, sizeof suites / sizeof *suites);
  br_ssl_client_set_default_rsapub(client);
  br_ssl_engine_set_default_rsavrfy(&client->eng);
  br_x509_minimal_init(x509, &br_sha256_vtable, anchors, count);
  br_x509_minimal_set_rsa(x509, br_ssl_engine_get_rsavrfy(&client->eng));
  for (int id = br_md5_ID; id <= br_sha512_ID; id++) {
    br_ssl_engine_set_hash(&client->eng, id, hashes[id - 1]);
    br_x509_minimal_set_hash(x509, id, hashes[id - 1]);
  }
  br_ssl_engine_set_x509(&client->eng, &x509->vtable);
  br_ssl_engine_set_prf10(&client->eng, &br_tls10_prf);
  br_ssl_engine_set_prf_sha256(&client->eng, &br_tls12_sha256_prf);
  br_ssl_engine_set_prf_sha384(&client->eng, &br_tls12_sha384_prf);
  br_ssl_engine_set_default_aes_cbc(&client->eng);
}

/* Give the client a certificate of its own; return 0 if it can't be read. */
static int set_certificate(br_ssl_client_context *client, const char *certificate, const char *key) {
  static struct bytes chain[MAX_ANCHORS];
  static br_x509_certificate certificates[MAX_ANCHORS];
  static br_skey_decoder_context decoder;
  struct bytes object;
  size_t count = read_pem(certificate, chain, MAX_ANCHORS);
  if (!count || read_pem(key, &object, 1) != 1) return 0;
  for (size_t i = 0; i < count; i++) certificates[i] = (br_x509_certificate){chain[i].data, chain[i].length};
  br_skey_decoder_init(&decoder);
  br_skey_decoder_push(&decoder, object.data, object.length);
  if (br_skey_decoder_key_type(&decoder) == BR_KEYTYPE_RSA)
    br_ssl_client_set_single_rsa(client, certificates, count, br_skey_decoder_get_rsa(&decoder),
                                 br_rsa_pkcs1_sign_get_default());
  else if (br_skey_decoder_key_type(&decoder) == BR_KEYTYPE_EC)
    br_ssl_client_set_single_ec(client, certificates, count, br_skey_decoder_get_ec(&decoder), BR_KEYTYPE_SIGN,
                                BR_KEYTYPE_EC, br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
  else
    return 0;
  return 1;
}

static int pull(void *wire, unsigned char *buffer, size_t length) {
  ssize_t got = wire_read(wire, buffer, length);
  return got > 0 ? (int)got : -1;
}

static int push(void *wire, const unsigned char *buffer, size_t length) {
  ssize_t sent = wire_write(wire, buffer, length);
  return sent > 0 ? (int)sent : -1;
}

int main(int count, char **values) {
  static br_ssl_client_context client;
  static br_x509_minimal_context x509;
  static br_x509_trust_anchor anchors[MAX_ANCHORS];
  /* The overheads are those of ESP8266's core: 325 bytes to receive, 85 to send. */
  static unsigned char in[16384 + 325], out[16384 + 85];
  static br_ssl_session_parameters session;
  const char *host = argument(count, values, "host", "localhost");
  int mfl = number(count, values, "mfl", 0);
  size_t trusted = read_anchors(argument(count, values, "ca", ""), anchors);
  if (!trusted) return fail("no authorities", 0);
  const char *wanted = request(count, values);
  for (int time = 0; time < number(count, values, "times", 1); time++) {
    if (!strcmp(argument(count, values, "profile", "full"), "basic"))
      init_basic(&client, &x509, anchors, trusted);
    else
      br_ssl_client_init_full(&client, &x509, anchors, trusted);
    const char *certificate = argument(count, values, "cert", NULL);
    if (certificate && !set_certificate(&client, certificate, argument(count, values, "key", "")))
      return fail("no certificate", 0);
    /* It asks for small records when its buffers, both of them, have no room for large ones. */
    size_t room = mfl ? (size_t)mfl : 16384;
    br_ssl_engine_set_buffers_bidi(&client.eng, in, room + 325, out, room + 85);
    if (time) br_ssl_engine_set_session_parameters(&client.eng, &session);
    if (!br_ssl_client_reset(&client, host, time > 0)) return fail("reset", br_ssl_engine_last_error(&client.eng));
    static struct wire wire;
    if (wire_open(&wire, number(count, values, "port", 0))) return fail("connect", 0);
    br_sslio_context io;
    br_sslio_init(&io, &client.eng, pull, &wire, push, &wire);
    br_sslio_write_all(&io, wanted, strlen(wanted));
    br_sslio_flush(&io);
    struct answer answer = {0};
    unsigned char buffer[4096];
    int got;
    while ((got = br_sslio_read(&io, buffer, sizeof buffer)) > 0) answer_feed(&answer, buffer, (size_t)got);
    wire_close(&wire);
    int error = br_ssl_engine_last_error(&client.eng);
    /* An end without close_notify is seen as the error 31 of its input. */
    if (error) return fail("bearssl", error);
    br_ssl_engine_get_session_parameters(&client.eng, &session);
  }
  return 0;
}
