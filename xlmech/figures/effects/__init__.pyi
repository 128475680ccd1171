from .before_and_after import before_after as before_after
from .costs import cost as cost
from .curves import trade_off as trade_off
from .doses import dose_response as dose_response
from .specific import specificity as specificity
