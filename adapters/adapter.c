/* Names and states of adapters: what every room may ask without a registry. */
#include "adapters/adapter.h"

#include <string.h>

static bool is_word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool adapter_name_is_valid(const char *s)
{
    size_t n = strnlen(s, LIMIT_ADAPTER_NAME_BYTES);
    if (n == 0 || n >= LIMIT_ADAPTER_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        bool is_inner = i > 0 && i + 1 < n;
        bool is_punct = s[i] == '.' || s[i] == '_' || s[i] == '-';
        if (!is_word_char(s[i]) && !(is_inner && is_punct)) {
            return false;
        }
    }
    return true;
}

const char *adapter_state_name(enum adapter_state state)
{
    switch (state) {
    case ADAPTER_REGISTERED:
        return "REGISTERED";
    case ADAPTER_LOADING:
        return "LOADING";
    case ADAPTER_HOST:
        return "HOST";
    case ADAPTER_DEVICE:
        return "DEVICE";
    case ADAPTER_RETIRING:
        return "RETIRING";
    case ADAPTER_FAILED:
        return "FAILED";
    }
    return "UNKNOWN";
}
