/* tests of >>json: what RFC 8259 allows and forbids, the tree, numbers, strings, writing */
#include <locale.h>

/* parses a copy that is exactly as long as the text, so that a sanitizer sees a read beyond it */
static llm_result json_result(const char *text, size_t n, llm_error *err) {
    char *copy = (char *)malloc(n + !n);
    llmi_json json;
    llm_result result;
    if (n) memcpy(copy, text, n);
    result = llmi_json_parse(&json, copy, n, "file", NULL, err);
    if (result == LLM_OK) llmi_json_free(&json);
    free(copy);
    return result;
}

TEST(json_accepts) {
    static const char *const good[] = {"null",
                                       "true",
                                       "false",
                                       "0",
                                       "-0",
                                       "-1.5e+10",
                                       "1E5",
                                       "0.0",
                                       "0e0",
                                       "10",
                                       "\"\"",
                                       " [ ] ",
                                       "{}",
                                       "\t\r\n 1 \n",
                                       "[1,2,[3,{\"a\":[]}]]",
                                       "{\"\":0}",
                                       "{\"a\":{\"a\":1},\"b\":[{\"a\":1}]}",
                                       "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
                                       "\"\\u0000\"",
                                       "\"\\uD83D\\uDE00\"",
                                       "\"\\udbff\\udfff\"",
                                       "\"\\uFFFF\"",
                                       "\"\x7f\"",
                                       "\"\xc3\xa9\"",
                                       "\"\xed\x9f\xbf\"",
                                       "\"\xee\x80\x80\"",
                                       "\"\xf4\x8f\xbf\xbf\"",
                                       "\"\xef\xbf\xbf\"",
                                       "{\"a\":1,\"A\":2,\"a \":3}",
                                       "123456789012345678901234567890",
                                       "1e999999999999999999999"};
    llm_error err;
    size_t i;
    for (i = 0; i < sizeof good / sizeof good[0]; i++)
        CHECK_MSG(json_result(good[i], strlen(good[i]), &err) == LLM_OK, "%s: %s", good[i],
                  err.message);
}

TEST(json_rejects) {
    static const char *const bad[] = {"",
                                      " ",
                                      "nul",
                                      "nulll",
                                      "True",
                                      "NaN",
                                      "Infinity",
                                      "-",
                                      "+1",
                                      "01",
                                      "-01",
                                      "1.",
                                      ".5",
                                      "1.e5",
                                      "1e",
                                      "1e+",
                                      "0x10",
                                      "1 2",
                                      "[1 2]",
                                      "[1,]",
                                      "[,1]",
                                      "[1",
                                      "]",
                                      "[1}",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "{a:1}",
                                      "{'a':1}",
                                      "{1:2}",
                                      "{\"a\":1 \"b\":2}",
                                      "{\"a\" 1}",
                                      "{\"a\":1",
                                      "{,}",
                                      "\"",
                                      "\"abc",
                                      "\"\\\"",
                                      "\"\\",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\\u12G4\"",
                                      "\"\\u123",
                                      "\"\n\"",
                                      "\"\t\"",
                                      "\"\x01\"",
                                      "\"\\uD83D\"",
                                      "\"\\uDE00\"",
                                      "\"\\uD83D\\u0041\"",
                                      "\"\\uD83D\\uD83D\"",
                                      "\"\\uD83Dx\"",
                                      "\"\\uD83D\\n\"",
                                      "\"\x80\"",
                                      "\"\xc3\"",
                                      "\"\xc0\xaf\"",
                                      "\"\xe0\x80\xaf\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xf0\x80\x80\xaf\"",
                                      "\"\xf4\x90\x80\x80\"",
                                      "\"\xf5\x80\x80\x80\"",
                                      "\"\xff\"",
                                      "\"\xc3(\"",
                                      "\xef\xbb\xbf[]",
                                      "// c\n1",
                                      "[1]//",
                                      "{\"a\":1,\"a\":1}",
                                      "{\"a\":1,\"b\":2,\"\\u0061\":3}",
                                      "{\"\":1,\"\":1}",
                                      "[{\"x\":[{\"k\":0,\"k\":0}]}]",
                                      "1\v",
                                      "1\f",
                                      "\xa0[]"};
    llm_error err;
    size_t i;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err.code = LLM_OK;
        CHECK_MSG(json_result(bad[i], strlen(bad[i]), &err) == LLM_ERR_FORMAT &&
                      err.code == LLM_ERR_FORMAT,
                  "accepted %s", bad[i]);
        CHECK_MSG(strncmp(err.message, "file: ", 6) == 0 && strstr(err.message, " at byte "), "%s",
                  err.message);
    }
    CHECK(json_result("1\0", 2, &err) == LLM_ERR_FORMAT);
    CHECK(json_result("[\"a\0b\"]", 7, &err) == LLM_ERR_FORMAT);
    CHECK(json_result("[1, 2, x]", 9, &err) == LLM_ERR_FORMAT && strstr(err.message, "at byte 7"));
}

TEST(json_depth) {
    char text[200];
    int n;
    for (n = 1; n <= 80; n++) {
        memset(text, '[', (size_t)n);
        memset(text + n, ']', (size_t)n);
        CHECK_MSG((json_result(text, 2 * (size_t)n, NULL) == LLM_OK) == (n <= 64), "depth %d", n);
    }
}

TEST(json_tree) {
    const char *text = "{\"a\": [1, \"x\", null], \"b\": {\"c\": true}, \"\\u00e9\": \"\"}";
    llmi_json json;
    int a, b, item;
    CHECK(llmi_json_parse(&json, text, strlen(text), "file", NULL, NULL) == LLM_OK);
    CHECK(json.nodes[0].type == LLMI_JSON_OBJECT && json.nodes[0].n_children == 3 &&
          json.nodes[0].next == -1);
    CHECK(json.nodes[0].begin == 0 && json.nodes[0].end == strlen(text));
    a = llmi_json_get(&json, 0, "a");
    b = llmi_json_get(&json, 0, "b");
    CHECK(a > 0 && json.nodes[a].type == LLMI_JSON_ARRAY && json.nodes[a].n_children == 3);
    item = llmi_json_first(&json, a);
    CHECK(json.nodes[item].type == LLMI_JSON_NUMBER &&
          json.nodes[item].end - json.nodes[item].begin == 1);
    item = json.nodes[item].next;
    CHECK(llmi_json_is(&json, item, "x") && !llmi_json_is(&json, item, "") &&
          !llmi_json_is(&json, item, "xy"));
    item = json.nodes[item].next;
    CHECK(json.nodes[item].type == LLMI_JSON_NULL && json.nodes[item].next == -1);
    CHECK(json.nodes[llmi_json_get(&json, b, "c")].type == LLMI_JSON_TRUE);
    CHECK(llmi_json_is(&json, llmi_json_get(&json, 0, "\xc3\xa9"), ""));
    CHECK(llmi_json_get(&json, 0, "c") == -1 && llmi_json_get(&json, a, "a") == -1 &&
          llmi_json_get(&json, -1, "a") == -1);
    CHECK(!llmi_json_is(&json, a, "a") && !llmi_json_is(&json, -1, "a"));
    llmi_json_free(&json);
}

TEST(json_strings) {
    const char *text = "\"\\u00e9 \\ud83d\\ude00\\n\\/\\u0000\\\"\\\\\\b\\f\\r\\t\xe2\x82\xac\"";
    const char want[] = "\xc3\xa9 \xf0\x9f\x98\x80\n/\0\"\\\b\f\r\t\xe2\x82\xac";
    char got[64];
    llmi_json json;
    CHECK(llmi_json_parse(&json, text, strlen(text), "file", NULL, NULL) == LLM_OK);
    CHECK(llmi_json_string(&json, 0, got, sizeof got) == sizeof want - 1 &&
          !memcmp(got, want, sizeof want - 1));
    memset(got, 'x', sizeof got);
    CHECK(llmi_json_string(&json, 0, got, 5) == sizeof want - 1 && !memcmp(got, want, 5) &&
          got[5] == 'x');
    CHECK(llmi_json_string(&json, 0, NULL, 0) == sizeof want - 1);
    CHECK(!llmi_json_is(&json, 0, "\xc3\xa9 \xf0\x9f\x98\x80\n/")); /* a zero byte is no end */
    llmi_json_free(&json);
}

static double json_double(const char *text, int *ok) {
    llmi_json json;
    double value = -1;
    *ok = llmi_json_parse(&json, text, strlen(text), "file", NULL, NULL) == LLM_OK;
    if (*ok) *ok = llmi_json_number(&json, 0, &value);
    llmi_json_free(&json);
    return value;
}

static void json_check_numbers(void) {
    static const struct { const char *text; double value;
    } cases[] = {{"0", 0.0},
                 {"-0", 0.0},
                 {"1", 1.0},
                 {"-2.5", -2.5},
                 {"0.1", 0.1},
                 {"1e-5", 1e-5},
                 {"1E+2", 100.0},
                 {"12.5e3", 12500.0},
                 {"3.4028234663852886e38", 3.4028234663852886e38},
                 {"5e-324", 5e-324},
                 {"2.2250738585072014e-308", 2.2250738585072014e-308},
                 {"1.7976931348623157e308", 1.7976931348623157e308},
                 {"9007199254740993", 9007199254740992.0},
                 {"9007199254740993.000000000000000001", 9007199254740994.0},
                 {"1e-400", 0.0},
                 {"0e99999999999999999999", 0.0},
                 {"0."
                  "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
                  "0000000000000000125",
                  1.25e-97},
                 {"10000000000000000000000000000000000000000000000000000000000000000000000000000000"
                  "00000000000000000000000000000",
                  1e108},
                 {"9007199254740993."
                  "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
                  "000000000000001",
                  9007199254740994.0}};
    size_t i;
    int ok;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const double got = json_double(cases[i].text, &ok);
        CHECK_MSG(ok && got <= cases[i].value && got >= cases[i].value, "%s gave %.17g",
                  cases[i].text, got);
    }
    json_double("1e309", &ok);
    CHECK(!ok);
    json_double("\"1\"", &ok);
    CHECK(!ok);
}

TEST(json_numbers) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8",
                                        "fr_FR.utf8"};
    size_t i;
    json_check_numbers();
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (setlocale(LC_NUMERIC, names[i])) { /* where the decimal point is a comma */
            json_check_numbers();
            setlocale(LC_NUMERIC, "C");
            return;
        }
}

TEST(json_integers) {
    static const struct { const char *text; int ok; int64_t value;
    } cases[] = {
        {"0", 1, 0}, {"-0", 1, 0}, {"42", 1, 42}, {"-7", 1, -7},
        {"9223372036854775807", 1, INT64_MAX}, {"-9223372036854775808", 1, INT64_MIN},
        {"9223372036854775808", 0, 0}, {"-9223372036854775809", 0, 0},
        {"18446744073709551616", 0, 0}, {"99999999999999999999", 0, 0}, {"1.0", 0, 0},
        {"1e3", 0, 0}, {"\"1\"", 0, 0}, {"true", 0, 0}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        llmi_json json;
        int64_t value = 0;
        CHECK(llmi_json_parse(&json, cases[i].text, strlen(cases[i].text), "file", NULL, NULL) ==
              LLM_OK);
        CHECK_MSG(llmi_json_int64(&json, 0, &value) == cases[i].ok &&
                      (!cases[i].ok || value == cases[i].value),
                  "%s", cases[i].text);
        llmi_json_free(&json);
    }
}

TEST(json_many_keys) { /* 100,000 keys in an instant; a double one is found at any place */
    llmi_text text;
    size_t first = 0, last = 0;
    double start = llmi_seconds();
    int i;
    llm_error err;
    memset(&text, 0, sizeof text);
    for (i = 0; i < 100000; i++) {
        llmi_text_format(&text, "%s\"key%06d\":", i ? "," : "{", i * 7919 % 100000);
        if (i == 3) first = text.size - 8;
        if (i == 99990) last = text.size - 8;
        llmi_text_add(&text, "0", 1);
    }
    llmi_text_add(&text, "}", 1);
    CHECK(text.failed == LLM_OK && json_result(text.data, text.size, &err) == LLM_OK);
    memcpy(text.data + last, text.data + first, 6);
    CHECK(json_result(text.data, text.size, &err) == LLM_ERR_FORMAT &&
          strstr(err.message, "twice"));
    CHECK(llmi_seconds() - start < 10);
    llmi_text_free(&text);
}

TEST(json_hostile) { /* every truncation is refused, no mutation reads out of bounds */
    const char *good = "{\"k\\u00e9y\":[1,-2.5e3,\"a\\ud83d\\ude00\xc3\xa9\",{\"x\":null,\"y\":["
                       "true,false,[]]}],\"z\":{}}";
    const size_t n = strlen(good);
    char text[128];
    uint32_t state = 1;
    size_t i;
    for (i = 0; i < n; i++)
        CHECK_MSG(json_result(good, i, NULL) == LLM_ERR_FORMAT, "accepted %zu bytes", i);
    CHECK(json_result(good, n, NULL) == LLM_OK);
    for (i = 0; i < 20000; i++) {
        int k;
        memcpy(text, good, n);
        for (k = 0; k < 3; k++) {
            state = state * 1664525u + 1013904223u;
            text[(state >> 8) % n] = k ? "{}[]\",:\\u019eE.- tfn"[(state >> 20) % 20]
                                       : (char)(state >> 24);
        }
        (void)json_result(text, n, NULL);
    }
}

static llm_result json_parsed(llmi_json *json, const char *text, heap *h, llm_error *err) {
    const llm_result result = llmi_json_parse(json, text, strlen(text), "file", &h->allocator, err);
    if (result == LLM_OK) llmi_json_free(json);
    else CHECK(!json->nodes);
    return result;
}
TEST(json_memory) {
    const char *text = "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,"
                       "\"j\":[[],[],[],[],[],[],[],[],[],[],[],[],"
                       "[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],"
                       "[],[],[],[],[],[],[]],"
                       "\"k\":1,\"l\":1,\"m\":1,\"n\":1,\"o\":1,\"p\":1,\"q\":1,\"r\":1}";
    llmi_json json;
    llm_error err;
    heap h;
    heap_init(&h);
    EACH_ALLOCATION_FAILS(&h, json_parsed(&json, text, &h, &err));
    CHECK(h.live == 0);
}

TEST(json_text) {
    llmi_text text;
    heap h;
    const char *want = "{\"a\\\"\\\\\\u000a\\u0000\xc3\xa9\xf0\x9f\x98\x80\\ufffd\\ufffd\": 42}";
    char big[1000];
    int i;
    heap_init(&h);
    memset(&text, 0, sizeof text);
    text.allocator = &h.allocator;
    llmi_text_add(&text, "{", 1);
    llmi_text_string(&text, "a\"\\\n\0\xc3\xa9\xf0\x9f\x98\x80\xff\xc3", 13);
    llmi_text_format(&text, ": %d}", 42);
    CHECK(text.failed == LLM_OK && text.size == strlen(want) &&
          !memcmp(text.data, want, text.size));
    CHECK(json_result(text.data, text.size, NULL) == LLM_OK);
    memset(big, 'x', sizeof big);
    for (i = 0; i < 100; i++) llmi_text_add(&text, big, sizeof big);
    CHECK(text.failed == LLM_OK && text.size == strlen(want) + 100000);
    llmi_text_free(&text);
    CHECK(h.live == 0);

    heap_init(&h);                     /* a failure sticks */
    h.fail_at = 1;
    memset(&text, 0, sizeof text);
    text.allocator = &h.allocator;
    llmi_text_add(&text, "abc", 3);
    llmi_text_add(&text, big, sizeof big);
    CHECK(text.failed == LLM_ERR_MEMORY && text.size == 3);
    llmi_text_add(&text, "d", 1);
    CHECK(text.failed == LLM_ERR_MEMORY && text.size == 3 && !memcmp(text.data, "abc", 3));
    llmi_text_free(&text);
    CHECK(h.live == 0);
}

static void run_json(void) {
    RUN(json_accepts);
    RUN(json_rejects);
    RUN(json_depth);
    RUN(json_tree);
    RUN(json_strings);
    RUN(json_numbers);
    RUN(json_integers);
    RUN(json_many_keys);
    RUN(json_hostile);
    RUN(json_memory);
    RUN(json_text);
}
