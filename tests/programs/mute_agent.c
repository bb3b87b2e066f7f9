/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A guest's process 1 in the agent's place that never says hello: it says on the console that it is
 * there, and stays.
 */
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

static const char words[] = "mute: up, and silent\n";

int main(void) {
    /* libkrun's own first process may have mounted it before. */
    int status = mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (console < 0 || write(console, words, sizeof(words) - 1) < 0) {
        return status == 0 ? 1 : 2; /* the guest ends with it: the test sees that */
    }
    pause(); /* until its VM is killed */
    return 0;
}
