/* A minimal client of whatever SQLite it is compiled with: runs the SQL on standard input against one file.
 *
 *   shell FILE < statements.sql        prints each result row as one line
 *   shell --version
 *
 * A row is its fields joined by tabs. NULL is \N, a blob is X'hex'; in text, backslash, tab, newline and carriage
 * return are written \\ \t \n \r. On an error the message goes to standard error and the exit status is 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sqlite3.h"

static void print_text(const unsigned char *text, int length) {
    for (int i = 0; i < length; i++) switch (text[i]) {
        case '\\': fputs("\\\\", stdout); break;
        case '\t': fputs("\\t", stdout); break;
        case '\n': fputs("\\n", stdout); break;
        case '\r': fputs("\\r", stdout); break;
        default: putchar(text[i]);
    }
}

static void print_field(sqlite3_stmt *statement, int column) {
    int type = sqlite3_column_type(statement, column);
    if (type == SQLITE_NULL) { fputs("\\N", stdout); return; }
    if (type != SQLITE_BLOB) {
        const unsigned char *text = sqlite3_column_text(statement, column);
        print_text(text, sqlite3_column_bytes(statement, column));
        return;
    }
    const unsigned char *blob = sqlite3_column_blob(statement, column);
    int length = sqlite3_column_bytes(statement, column);
    fputs("X'", stdout);
    for (int i = 0; i < length; i++) printf("%02X", blob[i]);
    putchar('\'');
}

static char *read_all(FILE *in) {
    size_t length = 0, room = 1 << 16;
    char *text = malloc(room);
    for (size_t got; (got = fread(text + length, 1, room - length - 1, in)) > 0;)
        if ((length += got) + 1 == room) text = realloc(text, room *= 2);
    text[length] = 0;
    return text;
}

static int fail(sqlite3 *database) {
    fflush(stdout);
    fprintf(stderr, "%s\n", sqlite3_errmsg(database));
    return 1;
}

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "--version") == 0) { puts(sqlite3_libversion()); return 0; }
    if (count != 2) { fputs("usage: shell FILE < statements.sql\n", stderr); return 2; }

    sqlite3 *database;
    if (sqlite3_open(words[1], &database) != SQLITE_OK) return fail(database);
    sqlite3_busy_timeout(database, 5000);

    const char *rest = read_all(stdin);
    while (*rest) {
        sqlite3_stmt *statement;
        int result;
        if (sqlite3_prepare_v2(database, rest, -1, &statement, &rest) != SQLITE_OK) return fail(database);
        while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
            for (int i = 0, columns = sqlite3_column_count(statement); i < columns; i++) {
                if (i) putchar('\t');
                print_field(statement, i);
            }
            putchar('\n');
        }
        if (statement && result != SQLITE_DONE) return fail(database);
        sqlite3_finalize(statement);
    }
    return sqlite3_close(database) == SQLITE_OK ? 0 : fail(database);
}
