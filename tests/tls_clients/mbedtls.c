/* Fetches /firmware with mbedTLS, as ESP-IDF and Zephyr do; client.h tells the arguments and the report. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>

#include "client.h"

static int push(void *wire, const unsigned char *buffer, size_t length) {
  ssize_t sent = wire_write(wire, buffer, length);
  return sent > 0 ? (int)sent : MBEDTLS_ERR_NET_SEND_FAILED;
}

static int pull(void *wire, unsigned char *buffer, size_t length) {
  ssize_t got = wire_read(wire, buffer, length);
  return got >= 0 ? (int)got : MBEDTLS_ERR_NET_RECV_FAILED;
}

static unsigned char fragment(int length) {
  switch (length) {
    case 512: return MBEDTLS_SSL_MAX_FRAG_LEN_512;
    case 1024: return MBEDTLS_SSL_MAX_FRAG_LEN_1024;
    case 4096: return MBEDTLS_SSL_MAX_FRAG_LEN_4096;
    default: return MBEDTLS_SSL_MAX_FRAG_LEN_NONE;
  }
}

int main(int count, char **values) {
  /* about=1 only prints the version of the library. */
  if (number(count, values, "about", 0)) return puts(MBEDTLS_VERSION_STRING) < 0;
  mbedtls_entropy_context entropy;
  mbedtls_ctr_drbg_context random;
  mbedtls_ssl_config config;
  mbedtls_x509_crt authorities, certificate;
  mbedtls_pk_context key;
  mbedtls_ssl_session session;
  mbedtls_entropy_init(&entropy);
  mbedtls_ctr_drbg_init(&random);
  mbedtls_ssl_config_init(&config);
  mbedtls_x509_crt_init(&authorities);
  mbedtls_x509_crt_init(&certificate);
  mbedtls_pk_init(&key);
  mbedtls_ssl_session_init(&session);
  int result = mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0);
  if (!result)
    result = mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                         MBEDTLS_SSL_PRESET_DEFAULT);
  if (!result) result = mbedtls_x509_crt_parse_file(&authorities, argument(count, values, "ca", ""));
  if (result) return fail("mbedtls", result);
  mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
  mbedtls_ssl_conf_ca_chain(&config, &authorities, NULL);
  mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
#if MBEDTLS_VERSION_MAJOR >= 3
  mbedtls_ssl_conf_max_tls_version(&config, MBEDTLS_SSL_VERSION_TLS1_2);
#endif
  mbedtls_ssl_conf_session_tickets(&config, number(count, values, "tickets", 1));
  if ((result = mbedtls_ssl_conf_max_frag_len(&config, fragment(number(count, values, "mfl", 0)))))
    return fail("mbedtls", result);
  if (argument(count, values, "cert", NULL)) {
    result = mbedtls_x509_crt_parse_file(&certificate, argument(count, values, "cert", ""));
    const char *file = argument(count, values, "key", "");
#if MBEDTLS_VERSION_MAJOR >= 3
    if (!result) result = mbedtls_pk_parse_keyfile(&key, file, NULL, mbedtls_ctr_drbg_random, &random);
#else
    if (!result) result = mbedtls_pk_parse_keyfile(&key, file, NULL);
#endif
    if (!result) result = mbedtls_ssl_conf_own_cert(&config, &certificate, &key);
    if (result) return fail("mbedtls", result);
  }
  const char *wanted = request(count, values);
  for (int time = 0; time < number(count, values, "times", 1); time++) {
    mbedtls_ssl_context ssl;
    static struct wire wire;
    mbedtls_ssl_init(&ssl);
    if (wire_open(&wire, number(count, values, "port", 0))) return fail("connect", 0);
    result = mbedtls_ssl_setup(&ssl, &config);
    if (!result) result = mbedtls_ssl_set_hostname(&ssl, argument(count, values, "host", "localhost"));
    if (!result && time) result = mbedtls_ssl_set_session(&ssl, &session);
    mbedtls_ssl_set_bio(&ssl, &wire, push, pull, NULL);
    if (!result) result = mbedtls_ssl_handshake(&ssl);
    if (!result) {
      mbedtls_ssl_session_free(&session);
      mbedtls_ssl_session_init(&session);
      result = mbedtls_ssl_get_session(&ssl, &session);
    }
    if (!result) result = mbedtls_ssl_write(&ssl, (const unsigned char *)wanted, strlen(wanted)) < 0;
    struct answer answer = {0};
    unsigned char buffer[4096];
    while (!result) {
      int got = mbedtls_ssl_read(&ssl, buffer, sizeof buffer);
      if (got == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) break;
      if (got > 0)
        answer_feed(&answer, buffer, (size_t)got);
      else
        result = got ? got : MBEDTLS_ERR_NET_CONN_RESET;
    }
    wire_close(&wire);
    mbedtls_ssl_free(&ssl);
    if (result) return fail("mbedtls", result);
  }
  return 0;
}
