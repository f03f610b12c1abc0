/* Fetches /firmware with wolfSSL; client.h tells the arguments and the report. */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include "client.h"

static int push(WOLFSSL *ssl, char *buffer, int length, void *wire) {
  (void)ssl;
  ssize_t sent = wire_write(wire, buffer, (size_t)length);
  return sent > 0 ? (int)sent : WOLFSSL_CBIO_ERR_GENERAL;
}

static int pull(WOLFSSL *ssl, char *buffer, int length, void *wire) {
  (void)ssl;
  ssize_t got = wire_read(wire, buffer, (size_t)length);
  if (got == 0) return WOLFSSL_CBIO_ERR_CONN_CLOSE;
  return got > 0 ? (int)got : WOLFSSL_CBIO_ERR_GENERAL;
}

static unsigned char fragment(int length) {
  switch (length) {
    case 512: return WOLFSSL_MFL_2_9;
    case 1024: return WOLFSSL_MFL_2_10;
    default: return WOLFSSL_MFL_2_12;
  }
}

int main(int count, char **values) {
  wolfSSL_Init();
  int newest = !strcmp(argument(count, values, "profile", "1.2"), "1.3");
  WOLFSSL_CTX *context = wolfSSL_CTX_new(newest ? wolfTLSv1_3_client_method() : wolfTLSv1_2_client_method());
  if (!context) return fail("context", 0);
  if (wolfSSL_CTX_load_verify_locations(context, argument(count, values, "ca", ""), NULL) != WOLFSSL_SUCCESS)
    return fail("no authorities", 0);
  wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
  wolfSSL_CTX_SetIORecv(context, pull);
  wolfSSL_CTX_SetIOSend(context, push);
  const char *certificate = argument(count, values, "cert", NULL);
  if (certificate &&
      (wolfSSL_CTX_use_certificate_file(context, certificate, WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS ||
       wolfSSL_CTX_use_PrivateKey_file(context, argument(count, values, "key", ""), WOLFSSL_FILETYPE_PEM) !=
           WOLFSSL_SUCCESS))
    return fail("no certificate", 0);
  const char *host = argument(count, values, "host", "localhost");
  int mfl = number(count, values, "mfl", 0);
  WOLFSSL_SESSION *session = NULL;
  const char *wanted = request(count, values);
  for (int time = 0; time < number(count, values, "times", 1); time++) {
    static struct wire wire;
    if (wire_open(&wire, number(count, values, "port", 0))) return fail("connect", 0);
    WOLFSSL *ssl = wolfSSL_new(context);
    wolfSSL_check_domain_name(ssl, host);
    wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, host, (unsigned short)strlen(host));
    if (mfl && wolfSSL_UseMaxFragment(ssl, fragment(mfl)) != WOLFSSL_SUCCESS) return fail("no mfl", 0);
    wolfSSL_SetIOReadCtx(ssl, &wire);
    wolfSSL_SetIOWriteCtx(ssl, &wire);
    if (session) wolfSSL_set_session(ssl, session);
    int result = 0;
    if (wolfSSL_connect(ssl) != WOLFSSL_SUCCESS ||
        wolfSSL_write(ssl, wanted, (int)strlen(wanted)) != (int)strlen(wanted)) {
      result = wolfSSL_get_error(ssl, 0);
    } else {
      struct answer answer = {0};
      unsigned char buffer[4096];
      int got;
      while ((got = wolfSSL_read(ssl, buffer, sizeof buffer)) > 0) answer_feed(&answer, buffer, (size_t)got);
      int error = wolfSSL_get_error(ssl, got);
      if (error != WOLFSSL_ERROR_ZERO_RETURN) result = error;
      /* A session of TLS 1.3 is there only when its ticket has been read. */
      if (session) wolfSSL_SESSION_free(session);
      session = wolfSSL_get1_session(ssl);
    }
    wire_close(&wire);
    wolfSSL_free(ssl);
    if (result) return fail("wolfssl", result);
  }
  return 0;
}
