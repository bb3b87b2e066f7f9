/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Goal: the shell and the programs of simulated guests do what scripts of tests and users expect of
 * busybox. Method: scripts with their output and exit code, each table in one guest.
 */
#include "guest_client.h"

struct script_row {
    const char *script;
    const char *output;
    int code;
};

static void run_rows(const struct script_row *rows, size_t count) {
    struct sim_world *world = client_world(7);
    struct client *client = client_boot_ready(client_os(world));
    for (size_t i = 0; i < count; i += 1) {
        client_says(client, rows[i].script, rows[i].output, rows[i].code);
    }
    client_end(client);
    kelpie__sim_world_destroy(world);
}

static void test_lists_and_quotes(void **state) {
    static const struct script_row rows[] = {
        {"", "", 0},
        {"true", "", 0},
        {"false", "", 1},
        {"echo a; echo b", "a\nb\n", 0},
        {"echo a && echo b || echo c", "a\nb\n", 0},
        {"false && echo b || echo c", "c\n", 0},
        {"false || false || echo c; echo d", "c\nd\n", 0},
        {"! true", "", 1},
        {"! false && echo x", "x\n", 0},
        {"echo 'a  b'  \"c  d\" e\\ f", "a  b c  d e f\n", 0},
        {"echo 'it'\"'\"'s' \"a\\\"b\\$c\\\\\"", "it's a\"b$c\\\n", 0},
        {"echo a#b # comment\necho c", "a#b\nc\n", 0},
        {"exit 7", "", 7},
        {"echo x; exit 3; echo y", "x\n", 3},
        {"nonexistent", "", 127},
        {"/tmp", "", 126},
        {"/etc/passwd", "", 126},
        {"if", "", 2},
        {"echo )", "", 2},
        {"echo \"a\nb\"", "a\nb\n", 0},
        {"echo a \\\n b", "a b\n", 0},
    };
    kelpie__ignore(state != NULL);
    run_rows(rows, KELPIE_ARRAY_COUNT(rows));
}

static void test_variables(void **state) {
    static const struct script_row rows[] = {
        {"x=1; echo $x ${x}2 \"$x\" '$x'", "1 12 1 $x\n", 0},
        {"x='a  b'; echo $x; echo \"$x\"", "a b\na  b\n", 0},
        {"echo \"<$unset>\" $unset end", "<> end\n", 0},
        {"x=; for i in $x \"$x\"; do echo \"<$i>\"; done", "<>\n", 0},
        {"echo ${x:-default} ${x-d} ${x:+set}", "default d\n", 0},
        {"x=v; echo ${x:-default} ${x:+set} ${#x}", "v set 1\n", 0},
        {"echo ${x:-\"$HOME/a\"}", "/root/a\n", 0},
        {"false; echo $?; true; echo $?", "1\n0\n", 0},
        {"set -- a 'b c' d; echo $# $1 \"$2\" $3; shift; echo $#", "3 a b c d\n2\n", 0},
        {"set -- a 'b c'; for i in \"$@\"; do echo \"<$i>\"; done", "<a>\n<b c>\n", 0},
        {"set -- a 'b c'; for i in $*; do echo \"<$i>\"; done", "<a>\n<b>\n<c>\n", 0},
        {"echo $((1+2*3)) $(( (1+2)*3 )) $((7/2)) $((7%3)) $((-4+1))", "7 9 3 1 -3\n", 0},
        {"i=5; echo $((i+1)) $((i<6)) $((i==5 && i>5)) $((!i))", "6 1 0 0\n", 0},
        {"i=0; while [ $i -lt 5 ]; do i=$((i+1)); done; echo $i", "5\n", 0},
        {"echo $(echo a; echo b) \"$(echo c; echo d)\"", "a b c\nd\n", 0},
        {"x=$(false); echo $?; x=$(echo y); echo $? $x", "1\n0 y\n", 0},
        {"echo `echo back`", "back\n", 0},
        {"echo \"$(echo \"a $(echo 'b c')\")\"", "a b c\n", 0},
        {"A=1 env | grep ^A=; echo \"<$A>\"", "A=1\n<>\n", 0},
        {"X=1; env | grep -c ^X=; export X; env | grep -c ^X=", "0\n1\n", 0},
        {"X=outer; (X=inner; echo $X); echo $X", "inner\nouter\n", 0},
        {"unset HOME; echo \"<$HOME>\"", "<>\n", 0},
        {"eval 'x=4; echo $x'; echo $x", "4\n4\n", 0},
        {"echo ~ ~/x", "/root /root/x\n", 0},
        {"a=b=c; echo $a", "b=c\n", 0},
    };
    kelpie__ignore(state != NULL);
    run_rows(rows, KELPIE_ARRAY_COUNT(rows));
}

static void test_constructs(void **state) {
    static const struct script_row rows[] = {
        {"if true; then echo a; else echo b; fi", "a\n", 0},
        {"if false; then echo a; else echo b; fi", "b\n", 0},
        {"if false; then echo a; elif true; then echo c; else echo b; fi", "c\n", 0},
        {"if false; then echo a; fi; echo $?", "0\n", 0},
        {"if [ 1 = 1 ] && ! false; then echo yes; fi", "yes\n", 0},
        {"for i in 1 2 3; do echo $i; done", "1\n2\n3\n", 0},
        {"for i in; do echo $i; done; echo end", "end\n", 0},
        {"for i in 1 2 3; do if [ $i = 2 ]; then continue; fi; echo $i; done", "1\n3\n", 0},
        {"for i in 1 2 3; do [ $i = 2 ] && break; echo $i; done; echo $?", "1\n0\n", 0},
        {"for i in a b; do for j in 1 2; do echo $i$j; done; done", "a1\na2\nb1\nb2\n", 0},
        {"while false; do echo x; done; echo $?", "0\n", 0},
        {"i=0; until [ $i = 3 ]; do i=$((i+1)); echo $i; done", "1\n2\n3\n", 0},
        {"i=0; while :; do i=$((i+1)); if [ $i = 4 ]; then break; fi; done; echo $i", "4\n", 0},
        {"{ echo a; echo b; } | wc -l", "2\n", 0},
        {"(echo a; exit 4); echo $?", "a\n4\n", 0},
        {"(exit 3) || echo $?", "3\n", 0},
        {"case abc in a*) echo one;; *) echo two;; esac", "one\n", 0},
        {"case x in a|b) echo one;; c|x) echo two;; esac", "two\n", 0},
        {"case q in a) echo one;; esac; echo $?", "0\n", 0},
        {"for i in a b; do echo $i; done >/tmp/o; cat /tmp/o", "a\nb\n", 0},
        {"while read a b; do echo $b-$a; done </etc/fstab || echo none", "none\n", 0},
        {"printf 'a b\\nc d e\\n' | while read x y; do echo \"$y:$x\"; done", "b:a\nd e:c\n", 0},
        {"if true; then\n echo a\n echo b\nfi\nfor i in 1 2\ndo\n echo $i\ndone", "a\nb\n1\n2\n",
         0},
        {"set -e; true; false; echo never", "", 1},
        {"set -e; false || echo handled; if false; then :; fi; echo end", "handled\nend\n", 0},
    };
    kelpie__ignore(state != NULL);
    run_rows(rows, KELPIE_ARRAY_COUNT(rows));
}

static void test_redirections_and_pipes(void **state) {
    static const struct script_row rows[] = {
        {"echo a >/tmp/f; echo b >>/tmp/f; cat /tmp/f", "a\nb\n", 0},
        {"cat </tmp/f | tr a-z A-Z", "A\nB\n", 0},
        {"echo err >&2; echo out", "out\n", 0},
        {"{ echo out; echo err >&2; } 2>&1", "out\nerr\n", 0},
        {"cat /none 2>/dev/null; echo $?", "1\n", 0},
        {"cat /none 2>/dev/null || echo no", "no\n", 0},
        {"echo x >/none/f; echo $?", "1\n", 0},
        {"echo x 2>/dev/null >/none/f || echo failed", "failed\n", 0},
        {"echo a b c | wc -w", "3\n", 0},
        {"printf 'b\\na\\n' | cat | cat | wc -c", "4\n", 0},
        {"true | false; echo $?; false | true; echo $?", "1\n0\n", 0},
        {"! true | false", "", 0},
        {"yes | head -n 3", "y\ny\ny\n", 0},
        {"yes abc | head -c 6", "abc\nab", 0},
        {"seq 3 | while read i; do echo n$i; done", "n1\nn2\nn3\n", 0},
        {"exec >/tmp/g; echo hidden; cat /tmp/g >&2", "", 0},
        {"cat /tmp/g", "hidden\n", 0},
        {"echo closed >&-; echo $?", "1\n", 0},
        {"cat; echo done", "done\n", 0},
        {"head -c 10 /dev/zero | wc -c; echo x >/dev/full || echo full", "10\nfull\n", 0},
        {"exec echo gone; echo never", "gone\n", 0},
    };
    kelpie__ignore(state != NULL);
    run_rows(rows, KELPIE_ARRAY_COUNT(rows));
}

static void test_programs(void **state) {
    static const struct script_row rows[] = {
        {"printf '%s-%d|%05d|%-4s|%x\\n' a 7 42 b 255", "a-7|00042|b   |ff\n", 0},
        {"printf '%s\\n' a b c", "a\nb\nc\n", 0},
        {"printf '%s|' '' 'a b' '*'", "|a b|*|", 0},
        {"printf \"\\\\$(printf %03o 65)\"", "A", 0},
        {"i=64; while [ $i -lt 68 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done", "@ABC",
         0},
        {"seq 2 4; head -c 3 /etc/passwd; echo", "2\n3\n4\nroo\n", 0},
        {"pwd; cd /tmp; pwd; cd; pwd", "/\n/tmp\n/root\n", 0},
        {"cd /none; echo $?", "1\n", 0},
        {"mkdir -p /tmp/d/e; touch /tmp/d/x /tmp/d/e/y; ls /tmp/d; rm -r /tmp/d; ls /tmp/d",
         "e\nx\n", 1},
        {"echo 1 >/tmp/a; mv /tmp/a /tmp/b; cp /tmp/b /tmp/c; cat /tmp/b /tmp/c", "1\n1\n", 0},
        {"rm /tmp/none; rm -f /tmp/none; echo $?", "0\n", 0},
        {"test -f /etc/passwd && test -d /etc && ! test -e /none && echo ok", "ok\n", 0},
        {"[ -n a ] && [ -z '' ] && [ a = a ] && [ a != b ] && [ 2 -gt 1 ] && echo ok", "ok\n", 0},
        {"test -t 1 || echo no tty; tty", "no tty\nnot a tty\n", 1},
        {"id -u; id -g; id", "0\n0\nuid=0 gid=0\n", 0},
        {"hostname; uname", "test\nLinux\n", 0},
        {"cat /proc/1/comm; tr '\\0' '\\n' </proc/1/cmdline | head -n1", "init\n/init\n", 0},
        {"ps | grep -c '[i]nit'; ps | grep '[n]othing'", "1\n", 1},
        {"dd if=/dev/zero bs=64k count=4 2>/dev/null | wc -c", "262144\n", 0},
        {"dd if=/dev/zero of=/tmp/z bs=1M count=2 2>/dev/null; md5sum /tmp/z | wc -l", "1\n", 0},
        {"chmod +x /tmp/b; test -x /tmp/b && chmod -x /tmp/b; test -x /tmp/b || echo off", "off\n",
         0},
        {"printf '#!/bin/sh\\necho script $1\\n' >/tmp/s; chmod 755 /tmp/s; /tmp/s arg",
         "script arg\n", 0},
        {"printf '#!/no/interpreter\\n' >/tmp/s; chmod 755 /tmp/s; /tmp/s 2>/dev/null; echo $?",
         "127\n", 0},
        {"wc -l </proc/sys/kernel/random/boot_id; sleep 0.01; true", "1\n", 0},
        {"sh -c 'echo $0 $# $1' name a b", "name 2 a\n", 0},
        {"echo 'echo from stdin' | sh", "from stdin\n", 0},
        {"source 10 | sink; source 100k | sink; source 1 | wc -c", "10\n102400\n1\n", 0},
        {"script 'say a; write /tmp/w 10; print 0; exit 7'; echo $?; wc -c </tmp/w", "a\n7\n10\n",
         0},
        {"ulimit -n; umask", "1024\n0022\n", 0},
        {"date | wc -l; nproc", "1\n1\n", 0},
        {"cat /sys/fs/cgroup/kelpie/*/nothing 2>/dev/null; cat /proc/uptime | wc -w", "2\n", 0},
    };
    kelpie__ignore(state != NULL);
    run_rows(rows, KELPIE_ARRAY_COUNT(rows));
}

static void test_jobs_and_signals(void **state) {
    static const struct script_row rows[] = {
        {"sleep 0.2 & echo started; wait; echo done", "started\ndone\n", 0},
        {"(exit 5) & wait $!; echo $?", "5\n", 0},
        {"sleep 100 & kill $!; wait $!; echo $?", "143\n", 0},
        {"sh -c 'kill -9 $$'; echo $?", "137\n", 0},
        {"trap 'echo got' TERM; kill -TERM $$; echo after", "got\nafter\n", 0},
        {"trap 'echo got; exit 5' USR1; kill -USR1 $$; echo never", "got\n", 5},
        {"trap '' TERM; kill $$; echo alive", "alive\n", 0},
        {"trap '' TERM; sh -c 'kill $$; echo child'", "child\n", 0},
        {"trap 'echo bye' EXIT; echo hi; exit 3", "hi\nbye\n", 3},
        {"sh -c 'trap \"echo t\" TERM; trap - TERM; kill $$; echo never'; echo $?", "143\n", 0},
        {"(sleep 0.1; kill -USR1 $$) & trap 'echo u; exit 2' USR1; while :; do sleep 0.05; done",
         "u\n", 2},
        {"(sleep 0.1; kill -USR1 $$) & trap 'echo u' USR1; wait; echo $?", "u\n128\n", 0},
        {"setsid sh -c 'echo in session'", "in session\n", 0},
        {"echo $$ >/tmp/p; (echo $$) >/tmp/q; test $(cat /tmp/p) = $(cat /tmp/q) && echo same",
         "same\n", 0},
        {"kill -0 1 && echo there; kill -0 9999 2>/dev/null || echo not", "there\nnot\n", 0},
        {"pidof sleep || echo none", "none\n", 0},
    };
    kelpie__ignore(state != NULL);
    run_rows(rows, KELPIE_ARRAY_COUNT(rows));
}

/* What the rows of tests/contract and tests/cli run, as far as it ends by itself. */
static void test_scripts_of_the_contract(void **state) {
    static const struct script_row rows[] = {
        {"echo out 5; echo err 5 >&2; exit 3", "out 5\n", 3},
        {"printf '#!/no/such/interpreter\\n' >/tmp/script; chmod +x /tmp/script; echo >/tmp/plain",
         "", 0},
        {"ps | grep -c '[s]leep 123' || true", "0\n", 0},
        {"dd if=/dev/zero of=/tmp/data bs=1M count=24 2>/dev/null; md5sum /tmp/data | wc -l", "1\n",
         0},
        {"rm /tmp/data; cat /tmp/done 2>/dev/null; echo waits", "waits\n", 0},
        {"i=0; while ps | grep -q '[s]leep 5432' && [ $i -lt 50 ]; do i=$((i+1)); sleep 0.1; done; "
         "ps | grep -c '[s]leep 5432' || true",
         "0\n", 0},
        {"tr '\\0' '\\n' </proc/1/cmdline | head -n1; cat /proc/1/comm", "/init\ninit\n", 0},
        {"echo from >/etc/mark; cat /etc/mark; echo changed >/etc/mark; touch /new; cat /etc/mark",
         "from\nchanged\n", 0},
        {"touch /none/new 2>/dev/null || echo read-only", "read-only\n", 0},
        {"ls /kept 2>/dev/null; echo data >/kept; ls /kept", "/kept\n", 0},
        {"for i in 1 2 3; do echo line $i; sleep 0.1; done; read x; echo got $x; exit 9",
         "line 1\nline 2\nline 3\ngot\n", 9},
        {"yes 'a line for the console' | head -c 500 >/dev/console", "", 0},
        {"for s in INT TERM HUP QUIT USR1; do trap \"echo $s; exit 9\" $s; done; echo ready; "
         "kill -HUP $$; while :; do sleep 0.05; done",
         "ready\nHUP\n", 9},
        {"trap 'stty size; exit' WINCH; echo ready; kill -WINCH $$; while :; do sleep 1; done",
         "ready\n", 1},
        {"i=250; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done",
         "\xfa\xfb\xfc\xfd\xfe\xff", 0},
        {"sleep 0.5; echo out; echo err >&2; exit 5", "out\n", 5},
        {"echo \"$A|$B|$HOME\"; pwd; id -u; id -g", "||/root\n/\n0\n0\n", 0},
    };
    kelpie__ignore(state != NULL);
    run_rows(rows, KELPIE_ARRAY_COUNT(rows));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists_and_quotes),
        cmocka_unit_test(test_variables),
        cmocka_unit_test(test_constructs),
        cmocka_unit_test(test_redirections_and_pipes),
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_jobs_and_signals),
        cmocka_unit_test(test_scripts_of_the_contract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
