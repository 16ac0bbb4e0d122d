"""The facts kitchen announces."""

from pydantic import Field

from choreography import Announced


class DishCooked(Announced, type="kitchen.dish_cooked.v1"):
    """A dish is ready for a table."""

    dish: str = Field(description="as on the menu")
    price: int = Field(description="in cents")
