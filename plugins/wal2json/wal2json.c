#include "tailwater/decoder.h"
