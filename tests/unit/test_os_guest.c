/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The guest's way to its host behind the seam. Goal: a dial that fails says why, at once or later.
 * Method: a port that nobody listens on. A host with vsock refuses a connection that has begun, one
 * without it the dial itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>

#include "os/os_call.h"

#define PORT_OF_NOBODY 0x7fff1234u
#define ANSWER_MS 10000 /* the kernel gives up after two seconds */

static void test_a_dial_that_fails_says_why(void **state) {
    struct kelpie_os *os = kelpie__os_linux_create_guest();
    char byte = 0;
    assert_null(*state);
    assert_non_null(os);
    int64_t status = kelpie__os_dial_host(os, PORT_OF_NOBODY);
    if (status >= 0) {
        struct pollfd wait = {.fd = (int)status, .events = POLLOUT};
        assert_int_equal(poll(&wait, 1, ANSWER_MS), 1);
        assert_true((wait.revents & (POLLERR | POLLHUP)) != 0);
        int64_t answer = kelpie__os_read(os, wait.fd, &byte, sizeof(byte));
        assert_int_equal(kelpie__os_close(os, wait.fd), 0);
        status = answer;
    }
    assert_true(status < 0);
    assert_true(status != -ENOTCONN); /* that much is known */
    kelpie__os_linux_destroy(os);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_dial_that_fails_says_why)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
